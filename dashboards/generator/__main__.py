# SPDX-License-Identifier: Apache-2.0
"""Write the dashboards next to this package; with ``--check``, say which are out of date."""

import json
import sys
from pathlib import Path

from dashboards.generator import DASHBOARDS

FOLDER = Path(__file__).parents[1]

stale = False
for dashboard in DASHBOARDS:
    path = FOLDER / dashboard.file
    text = json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False) + "\n"
    if "--check" not in sys.argv[1:]:
        path.write_text(text)
    elif path.read_text() != text:
        print(f"{path.name} is out of date: run scripts/generate-dashboards", file=sys.stderr)
        stale = True
sys.exit(stale)

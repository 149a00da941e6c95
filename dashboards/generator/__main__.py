# SPDX-License-Identifier: Apache-2.0
"""Write the dashboards next to this package."""

import json
from pathlib import Path

from dashboards.generator import DASHBOARDS

FOLDER = Path(__file__).parents[1]

for dashboard in DASHBOARDS:
    text = json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False)
    (FOLDER / dashboard.file).write_text(text + "\n")

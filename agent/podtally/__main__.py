# SPDX-License-Identifier: Apache-2.0
"""``python -m podtally``."""

import sys

from podtally.cli import main

sys.exit(main())

"""``python -m podtally``."""

import sys

from podtally.cli import main

sys.exit(main())

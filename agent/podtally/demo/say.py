# SPDX-License-Identifier: Apache-2.0
"""Progress messages of the demo."""

import sys


def say(text: str) -> None:
    """Write a message to standard error, beside the tables."""
    print(f"podtally demo: {text}", file=sys.stderr, flush=True)

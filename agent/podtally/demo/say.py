# SPDX-License-Identifier: Apache-2.0
"""Tells the person at the demo what goes on."""

import sys


def say(text: str) -> None:
    """Tell the person what goes on, beside the tables."""
    print(f"podtally demo: {text}", file=sys.stderr, flush=True)

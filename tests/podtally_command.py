# SPDX-License-Identifier: Apache-2.0
"""Runs ``podtally`` as users do: a process of its own, and what it prints."""

import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def podtally(
    *arguments: str, variables: Mapping[str, str] | None = None, seconds: float = 300
) -> Ended:
    """Run a command to its end, with the caller's environment unless ``variables`` replace it."""
    done = subprocess.run(
        [sys.executable, "-m", "podtally", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=variables,
    )
    return Ended(done.returncode, done.stdout, done.stderr)

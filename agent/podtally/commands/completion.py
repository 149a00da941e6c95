# SPDX-License-Identifier: Apache-2.0
"""``podtally completion``: prints a generated shell completion, or the man page."""

import argparse
import sys
from pathlib import Path

_EPILOG = """\
examples:
  podtally completion bash > /etc/bash_completion.d/podtally
  podtally completion zsh > /usr/local/share/zsh/site-functions/_podtally
  podtally completion man | man -l -

Exit codes: 0 fine, 2 usage error.
"""
GENERATED = Path(__file__).parents[1] / "generated"
FILES = {"bash": "podtally.bash", "zsh": "_podtally", "man": "podtally.1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("what", choices=tuple(FILES), help="shell completion, or the man page")


def main(args: argparse.Namespace) -> int:
    sys.stdout.write((GENERATED / FILES[args.what]).read_text())
    return 0

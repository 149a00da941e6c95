# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share."""

import argparse
from pathlib import Path

from podtally.config import DEFAULT_FILE, add_flags


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="text (default) or json"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: {DEFAULT_FILE}, if it exists"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_flags(parser, ("pin_dir", "state_dir"))

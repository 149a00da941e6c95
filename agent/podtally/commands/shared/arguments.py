# SPDX-License-Identifier: Apache-2.0
"""Arguments and output formats that several commands share."""

import argparse
from pathlib import Path
from typing import TextIO

import msgspec

from podtally.config import DEFAULT_FILE, add_flags


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="text (default) or json"
    )


def print_json(value: msgspec.Struct, out: TextIO) -> None:
    """Write JSON, indented; the top level is always an object."""
    out.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def add_namespace(parser: argparse.ArgumentParser, what: str) -> None:
    """``what``: the rows that are filtered."""
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help=f"only {what} of this namespace"
    )


def add_cluster_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="FILE",
        help="namespaces, nodes and pods, from kubectl get -o yaml; may be repeated",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration file (default: {DEFAULT_FILE}, if it exists)",
    )


def add_directories(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_flags(parser, ("pin_dir", "state_dir"))

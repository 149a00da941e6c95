# SPDX-License-Identifier: Apache-2.0
"""The options of ``top``, of one agent and of a cluster: how often, and which rows."""

import argparse

from podtally.commands.shared.arguments import add_namespace
from podtally.commands.traffic.conversation_rows import ConversationFilter

_INTERVAL_SECONDS = 2.0
_MIN_SECONDS, _MAX_SECONDS = 0.1, 86400.0


def add_interval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=_seconds, default=_INTERVAL_SECONDS, metavar="SECONDS",
        help=f"refresh interval (default: {_INTERVAL_SECONDS:.0f})",
    )  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    add_interval(parser)
    parser.add_argument("--once", action="store_true", help="print the totals once, and exit")
    parser.add_argument(
        "--egress", action="store_true", help="only connections that workloads here open"
    )
    parser.add_argument(
        "--outside", action="store_true", help="only peers outside the cluster and the host"
    )
    parser.add_argument("--denied", action="store_true", help="only denied or undeclared traffic")
    parser.add_argument(
        "--failed", action="store_true", help="only with connections that failed: see FAILED"
    )
    add_namespace(parser, "workloads")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N lines")


def chosen_rows(args: argparse.Namespace) -> ConversationFilter:
    return ConversationFilter(args.egress, args.outside, args.denied, args.namespace, args.failed)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise ValueError(text)
    return seconds


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number

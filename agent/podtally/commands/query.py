# SPDX-License-Identifier: Apache-2.0
"""``podtally query``: prints the running agent's reply to one GET, unchanged."""

import argparse
import http.client
import os
import sys

from podtally.commands.shared import agent_query
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally query /metrics
  podtally query '/api/v1/resolve?address=10.0.0.7'

For containers without curl; `kubectl podtally` uses it where an agent requires TLS or users.
Exit codes: 0 the agent replied, 1 it refused (its reply is printed), 2 usage error, or a fixable
problem (no agent answers).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("target", metavar="PATH", help="path and query, from / on")
    agent_query.add_address(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if the agent replied with status 200, else 1."""
    if not args.target.startswith("/"):
        raise PodtallyError(f"invalid path {args.target!r}", "for example: podtally query /metrics")
    status, body = agent_query.fetch(agent_query.agent_address(args), args.target)
    sys.stdout.flush()
    os.fdopen(sys.stdout.fileno(), "wb", closefd=False).write(body)
    return 0 if status == http.client.OK else 1

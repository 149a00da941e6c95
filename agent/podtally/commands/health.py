# SPDX-License-Identifier: Apache-2.0
"""``podtally health``: whether the agent here is well, for health checks of containers."""

import argparse
import http.client
import os
from contextlib import closing
from pathlib import Path

from podtally import config
from podtally.commands.agent_query import LISTEN_VARIABLE
from podtally.errors import PodtallyError
from podtally.web import client
from podtally.web.tls import SPEAKS_TLS

_EPILOG = """\
examples:
  podtally health            # as /livez: epochs turn, and every thread lives
  podtally health --ready    # as /readyz: and what is counted is written down

Exit codes: 0 well, 1 not well (one line says why), 2 nobody answers, or wrong use.
"""
_MAY_EXPECT_TLS = (int(http.client.BAD_REQUEST), SPEAKS_TLS.decode())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's own: it says where it listens"
    )
    parser.add_argument(
        "--listen",
        default=os.environ.get(LISTEN_VARIABLE),
        metavar="ADDR:PORT",
        help=f"where the agent listens (${LISTEN_VARIABLE}, or {config.DEFAULT_LISTEN})",
    )
    parser.add_argument("--ready", action="store_true", help="ask for /readyz, not /livez")


def main(args: argparse.Namespace) -> int:
    """Return 0 if the agent says it is well, 1 if it says why not."""
    host, port = client.reachable_address(config.from_arguments(args))
    path = "/readyz" if args.ready else "/livez"
    status, words = _get(host, port, path)
    if status == http.client.OK:
        print("ok")
        return 0
    print(words.strip() or f"{path} answers {status}")
    return 1


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    try:
        plain = http.client.HTTPConnection(host, port, timeout=client.TIMEOUT_SECONDS)
        try:
            told = _ask(plain, path)
        except (http.client.HTTPException, ConnectionResetError):
            told = _MAY_EXPECT_TLS
        if told != _MAY_EXPECT_TLS:
            return told
        # Unverified: the certificate is for the node's name, and nothing secret is said or told.
        return _ask(client.unverified(host, port), path)
    except (OSError, http.client.HTTPException) as error:
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        raise PodtallyError(
            f"no podtally answers on {host}:{port}: {words or type(error).__name__}",
            "is `podtally run` running? say where it listens with --listen or --config",
        ) from None


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    with closing(connection):
        status, body = client.exchange(connection, path)
        return status, body.decode(errors="replace")

# SPDX-License-Identifier: Apache-2.0
"""``podtally health``: checks the running agent, for container health checks."""

import argparse
import http.client

from podtally import config
from podtally.commands.shared.agent_query import add_address
from podtally.errors import PodtallyError
from podtally.web import client
from podtally.web.tls import TLS_REQUIRED

_EPILOG = """\
examples:
  podtally health            # /livez: epochs complete, and all threads run
  podtally health --ready    # /readyz: counts are saved as well

Exit codes: 0 healthy, 1 not healthy (one line says why), 2 usage error, or a fixable problem
(no agent answers).
"""
_EXPECTS_TLS = (int(http.client.BAD_REQUEST), TLS_REQUIRED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_address(parser)
    parser.add_argument("--ready", action="store_true", help="check /readyz, not /livez")


def main(args: argparse.Namespace) -> int:
    """Return 0 if the agent is healthy, 1 if not."""
    host, port = client.reachable_address(config.from_arguments(args))
    path = "/readyz" if args.ready else "/livez"
    status, text = _get(host, port, path)
    if status == http.client.OK:
        print(text.strip() or "ok")
        return 0
    print(text.strip() or f"{path} answers {status}")
    return 1


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    try:
        try:
            reply = client.get_plain(host, port, path)
        except (http.client.HTTPException, ConnectionResetError):
            reply = _EXPECTS_TLS
        if reply == _EXPECTS_TLS:
            # Unverified: the certificate has the node's name, and no secrets are exchanged.
            reply = client.get_unverified(host, port, path)
    except (OSError, http.client.HTTPException) as error:
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        raise PodtallyError(
            f"no podtally answers on {host}:{port}: {words or type(error).__name__}",
            "is `podtally run` running? give its address with --listen or --config",
        ) from None
    return reply[0], reply[1].decode(errors="replace")

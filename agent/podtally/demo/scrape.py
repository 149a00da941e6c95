"""Asks the demo's agent over HTTP."""

import http.client
from contextlib import closing

from podtally.export import web_client


def get(host: str, port: int, path: str) -> tuple[int, str]:
    """Return status and body; raises OSError or HTTPException where nobody answers."""
    timeout = web_client.TIMEOUT_SECONDS
    with closing(http.client.HTTPConnection(host, port, timeout=timeout)) as connection:
        status, body = web_client.exchange(connection, path)
        return status, body.decode()

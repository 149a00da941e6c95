# SPDX-License-Identifier: Apache-2.0
"""Asks the demo's agent over HTTP."""

import http.client
from contextlib import closing

from podtally.web import client


def get(host: str, port: int, path: str) -> tuple[int, str]:
    """Return status and body; raises OSError or HTTPException where nobody answers."""
    timeout = client.TIMEOUT_SECONDS
    with closing(http.client.HTTPConnection(host, port, timeout=timeout)) as connection:
        status, body = client.exchange(connection, path)
        return status, body.decode()

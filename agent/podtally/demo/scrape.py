"""Asks the demo's agent over HTTP."""

import http.client

_TIMEOUT_SECONDS = 5.0


def get(host: str, port: int, path: str) -> tuple[int, str]:
    """Return status and body; raises OSError or HTTPException where nobody answers.

    No proxy from the environment comes between.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain", "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()

# SPDX-License-Identifier: Apache-2.0
"""Handshake and close of a TLS connection."""

import contextlib
import logging
import socket
import ssl

from podtally.web.config import TlsServerConfig
from podtally.web.tls import TLS_REQUIRED, is_allowed

log = logging.getLogger(__name__)

_PLAIN_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(TLS_REQUIRED), TLS_REQUIRED)
)


def complete_handshake(secured: ssl.SSLSocket, tls: TlsServerConfig | None) -> bool:
    """Return whether the client completes the handshake and its certificate is allowed."""
    try:
        secured.do_handshake()
    except OSError as error:  # always the client's fault
        if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
            _reply_plain(secured)
        log.debug("TLS handshake failed: %s", error)
        return False
    if tls is not None and not is_allowed(tls, secured):
        log.debug("a client's certificate has none of the names in client_allowed_sans")
        return False
    return True


def _reply_plain(secured: ssl.SSLSocket) -> None:
    """Reply below TLS; reads the request first, otherwise closing would reset the connection."""
    socket.socket.setblocking(secured, False)
    with contextlib.suppress(OSError):
        socket.socket.recv(secured, 1 << 16)
        socket.socket.send(secured, _PLAIN_REPLY)


def tls_close(secured: ssl.SSLSocket) -> None:
    """Send close_notify, so that the client can detect truncation (RFC 8446, 6.1)."""
    secured.settimeout(0)
    with contextlib.suppress(OSError, ValueError):
        secured.unwrap()

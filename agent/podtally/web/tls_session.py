# SPDX-License-Identifier: Apache-2.0
"""The first and the last words with a client that speaks TLS, or ought to."""

import contextlib
import logging
import socket
import ssl

from podtally.web.config import TlsServerConfig
from podtally.web.tls import SPEAKS_TLS, is_allowed

log = logging.getLogger(__name__)

_SPEAKS_TLS_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(SPEAKS_TLS), SPEAKS_TLS)
)


def complete_handshake(secured: ssl.SSLSocket, tls: TlsServerConfig | None) -> bool:
    try:
        secured.do_handshake()
    except OSError as error:  # whatever it is, it is the client's doing
        if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
            _answer_plainly(secured)
        log.debug("no TLS with a client: %s", error)
        return False
    if tls is not None and not is_allowed(tls, secured):
        log.debug("a client's certificate has none of the names in client_allowed_sans")
        return False
    return True


def _answer_plainly(secured: ssl.SSLSocket) -> None:
    """Past the TLS layer; what it sent is read first, else closing would reset the connection."""
    socket.socket.setblocking(secured, False)
    with contextlib.suppress(OSError):
        socket.socket.recv(secured, 1 << 16)
        socket.socket.send(secured, _SPEAKS_TLS_ANSWER)


def tls_close(secured: ssl.SSLSocket) -> None:
    """The client can tell that nothing was cut off (RFC 8446, 6.1); its own is not waited for."""
    secured.settimeout(0)
    with contextlib.suppress(OSError, ValueError):
        secured.unwrap()

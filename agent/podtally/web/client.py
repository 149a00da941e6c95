# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of the commands: TLS and passwords as the agent requires them."""

import base64
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.web.config import read_web_config
from podtally.web.tls import TLS_REQUIRED, first_certificate, read_certificate
from podtally.web.unix_socket import short_path

CA_VARIABLE = "PODTALLY_CA_FILE"  # use TLS, and trust this CA
CLIENT_CERT_VARIABLE = "PODTALLY_CLIENT_CERT_FILE"  # certificate and key, in one file
USER_VARIABLE = "PODTALLY_BASIC_AUTH"  # user:password
USER_FILE_VARIABLE = "PODTALLY_BASIC_AUTH_FILE"  # a file with that in its first line
TIMEOUT_SECONDS = 5.0
_NO_HEADERS: Mapping[str, str] = {}
_EVERY_ADDRESS = {
    "": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
}  # for a server on all addresses


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        try:
            with short_path(self._path) as name:
                self.sock.connect(name)
        except OSError:
            self.sock.close()
            raise


def reachable_address(config: Config) -> tuple[str, int]:
    """Return the address to connect to."""
    host, port = config.listen_address()
    return _EVERY_ADDRESS.get(host, host), port


def get_local(api_socket: Path, target: str) -> tuple[int, bytes] | None:
    """Return status and body from the agent's Unix socket; None if it cannot be connected to.

    OSError or http.client.HTTPException after that.
    """
    with closing(UnixConnection(api_socket)) as connection:
        try:
            connection.connect()
        except OSError:
            return None
        return exchange(connection, target)


def get(config: Config, target: str) -> tuple[int, bytes]:
    """Return status and body of ``target`` (path and query).

    OSError, http.client.HTTPException; PodtallyError if TLS or the password is wrong. Proxies
    of the environment are not used.
    """
    connection, certificate = _connection(config)
    headers = _authorization()
    try:
        connection.connect()
        if certificate:
            _check_certificate(connection, certificate)
        status, body = exchange(connection, target, headers)
    except ssl.SSLError as error:
        raise PodtallyError(
            f"TLS with {connection.host}:{connection.port} failed: "
            f"{getattr(error, 'verify_message', '') or error.reason or error}",
            f"does the agent use TLS? see {CA_VARIABLE}, {CLIENT_CERT_VARIABLE} in docs/web.md",
        ) from None
    finally:
        connection.close()
    if status == http.client.UNAUTHORIZED:
        raise PodtallyError(
            "wrong user or password" if headers else "the agent requires a user and a password",
            f"set {USER_VARIABLE}=user:password, or {USER_FILE_VARIABLE} to a file with it",
        )
    if status == http.client.BAD_REQUEST and body == TLS_REQUIRED:
        raise PodtallyError(
            f"the agent on {connection.host}:{connection.port} requires TLS",
            f"use --config with its web_config_file, or set {CA_VARIABLE}",
        )
    return status, body


def get_plain(host: str, port: int, target: str) -> tuple[int, bytes]:
    """Return status and body, by plain HTTP and without credentials; OSError, HTTPException."""
    with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)) as connection:
        return exchange(connection, target)


def get_unverified(host: str, port: int, target: str) -> tuple[int, bytes]:
    """Return status and body, by TLS from whoever answers; not for secrets."""
    with closing(unverified(host, port)) as connection:
        return exchange(connection, target)


def exchange(
    connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str] = _NO_HEADERS
) -> tuple[int, bytes]:
    """Send one request; return status and body."""
    connection.request("GET", target, headers={"Connection": "close", **headers})
    response = connection.getresponse()
    return response.status, response.read()


def _connection(config: Config) -> tuple[http.client.HTTPConnection, bytes]:
    """Return a connection, and the certificate to expect; b"" for none in particular."""
    host, port = reachable_address(config)
    authority = os.environ.get(CA_VARIABLE)
    if authority:
        context = ssl.create_default_context()
        _load(CA_VARIABLE, lambda: context.load_verify_locations(authority))
        return _secure(host, port, context), b""
    tls = None if config.web_config_file is None else read_web_config(config.web_config_file).tls
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS), b""
    # The agent's certificate is known: its CA is not needed, nor a name for 127.0.0.1.
    return unverified(host, port), first_certificate(read_certificate(tls))


def unverified(host: str, port: int) -> http.client.HTTPConnection:
    """Return a TLS connection that accepts any certificate; not for secrets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _secure(host, port, context)


def _secure(host: str, port: int, context: ssl.SSLContext) -> http.client.HTTPConnection:
    own = os.environ.get(CLIENT_CERT_VARIABLE)
    if own:
        _load(CLIENT_CERT_VARIABLE, lambda: context.load_cert_chain(own, None, _no_password))
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def _check_certificate(connection: http.client.HTTPConnection, certificate: bytes) -> None:
    """Check the certificate before a password is sent; PodtallyError."""
    secured = connection.sock
    assert isinstance(secured, ssl.SSLSocket)
    if secured.getpeercert(binary_form=True) != certificate:
        raise PodtallyError(
            f"the certificate of {connection.host}:{connection.port} is not the one of the web "
            "configuration",
            f"if it is another agent, set {CA_VARIABLE} to its CA",
        )


def _authorization() -> dict[str, str]:
    user, file = os.environ.get(USER_VARIABLE, ""), os.environ.get(USER_FILE_VARIABLE, "")
    if file and not user:
        try:
            user = Path(file).read_text().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise PodtallyError(f"{USER_FILE_VARIABLE}: cannot read {file}: {reason}") from None
    if not user:
        return {}
    if ":" not in user:
        raise PodtallyError(f"{USER_VARIABLE}: no password", "set it to user:password")
    return {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def _load(variable: str, load: Callable[[], None]) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        reason = (isinstance(error, ssl.SSLError) and error.reason) or error.strerror
        raise PodtallyError(
            f"{variable}={os.environ[variable]}: cannot be used: {reason}", "check the file"
        ) from None


def _no_password() -> str:
    raise PodtallyError(
        f"{CLIENT_CERT_VARIABLE}: the key is encrypted",
        "decrypt it: openssl pkey -in FILE -out FILE",
    )

# SPDX-License-Identifier: Apache-2.0
"""Asks the agent's HTTP server from the command line, by TLS and with a password where it wants
them. What the answer means is left to the commands.
"""

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
from podtally.web.tls import SPEAKS_TLS, first_certificate, read_certificate
from podtally.web.unix_socket import short_path

CA_VARIABLE = "PODTALLY_CA_FILE"  # trust what this CA signed, and ask by TLS
CLIENT_CERT_VARIABLE = "PODTALLY_CLIENT_CERT_FILE"  # certificate and key, in one file
USER_VARIABLE = "PODTALLY_BASIC_AUTH"  # user:password
USER_FILE_VARIABLE = "PODTALLY_BASIC_AUTH_FILE"  # whose first line is that
TIMEOUT_SECONDS = 5.0
_NO_HEADERS: Mapping[str, str] = {}
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # where it listens there


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
    """Return the address to ask."""
    host, port = config.listen_address()
    return _EVERY_ADDRESS.get(host, host), port


def get_local(api_socket: Path, target: str) -> tuple[int, bytes] | None:
    """Return status and body that the agent's Unix socket has; None if nothing listens there
    or it is not for this user. http.client.HTTPException, OSError once it is connected.
    """
    with closing(UnixConnection(api_socket)) as connection:
        try:
            connection.connect()
        except OSError:
            return None
        return exchange(connection, target)


def get(config: Config, target: str) -> tuple[int, bytes]:
    """Return status and body that ``target`` (path and query) has; OSError,
    http.client.HTTPException, and PodtallyError where TLS or the password are at fault.

    No proxy from the environment comes between.
    """
    connection, certificate = _connection(config)
    headers = _authorization()
    try:
        connection.connect()
        if certificate:
            _check(connection, certificate)
        status, body = exchange(connection, target, headers)
    except ssl.SSLError as error:
        raise PodtallyError(
            f"no TLS with {connection.host}:{connection.port}: "
            f"{getattr(error, 'verify_message', '') or error.reason or error}",
            f"does it speak TLS? see {CA_VARIABLE}, {CLIENT_CERT_VARIABLE} in docs/web.md",
        ) from None
    finally:
        connection.close()
    if status == http.client.UNAUTHORIZED:
        raise PodtallyError(
            "the agent wants a user and a password" + (", others" if headers else ""),
            f"put user:password into {USER_VARIABLE}, or into a file named by {USER_FILE_VARIABLE}",
        )
    if status == http.client.BAD_REQUEST and body == SPEAKS_TLS:
        raise PodtallyError(
            f"the agent on {connection.host}:{connection.port} speaks TLS",
            f"say so with --config, whose web_config_file is read, or with {CA_VARIABLE}",
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
    """Ask the one question of a connection; returns status and body."""
    connection.request("GET", target, headers={"Connection": "close", **headers})
    response = connection.getresponse()
    return response.status, response.read()


def _connection(config: Config) -> tuple[http.client.HTTPConnection, bytes]:
    """And the certificate that is to be shown, if it is known; not whose CA is known."""
    host, port = reachable_address(config)
    authority = os.environ.get(CA_VARIABLE)
    if authority:
        context = ssl.create_default_context()
        _load(CA_VARIABLE, lambda: context.load_verify_locations(authority))
        return _secure(host, port, context), b""
    tls = None if config.web_config_file is None else read_web_config(config.web_config_file).tls
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS), b""
    # The agent's own certificate is at hand: no need of its CA, or of a name for 127.0.0.1.
    return unverified(host, port), first_certificate(read_certificate(tls))


def unverified(host: str, port: int) -> http.client.HTTPConnection:
    """Return a connection by TLS to whoever answers; not for secrets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _secure(host, port, context)


def _secure(host: str, port: int, context: ssl.SSLContext) -> http.client.HTTPConnection:
    own = os.environ.get(CLIENT_CERT_VARIABLE)
    if own:
        _load(CLIENT_CERT_VARIABLE, lambda: context.load_cert_chain(own, None, _no_password))
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def _check(connection: http.client.HTTPConnection, certificate: bytes) -> None:
    """Before a password is sent."""
    secured = connection.sock
    assert isinstance(secured, ssl.SSLSocket)
    if secured.getpeercert(binary_form=True) != certificate:
        raise PodtallyError(
            f"who answers on {connection.host}:{connection.port} has another certificate than the "
            "web configuration's",
            f"if it is another agent, name its CA with {CA_VARIABLE}",
        )


def _authorization() -> dict[str, str]:
    told, file = os.environ.get(USER_VARIABLE, ""), os.environ.get(USER_FILE_VARIABLE, "")
    if file and not told:
        try:
            told = Path(file).read_text().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            words = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise PodtallyError(f"{USER_FILE_VARIABLE}: cannot read {file}: {words}") from None
    if not told:
        return {}
    if ":" not in told:
        raise PodtallyError("the user for the agent has no password", "write user:password")
    return {"Authorization": "Basic " + base64.b64encode(told.encode()).decode()}


def _load(variable: str, load: Callable[[], None]) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        words = (isinstance(error, ssl.SSLError) and error.reason) or error.strerror
        raise PodtallyError(
            f"{variable}={os.environ[variable]}: cannot be used: {words}", "check the file"
        ) from None


def _no_password() -> str:
    raise PodtallyError(f"{CLIENT_CERT_VARIABLE}: the key is encrypted", "decrypt it")

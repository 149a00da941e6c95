# SPDX-License-Identifier: Apache-2.0
"""The API server's address, and the TLS context and credential for it."""

import contextlib
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from podtally.errors import PodtallyError
from podtally.kube.credentials import Credential, CredentialData, CredentialSource


@dataclass(frozen=True)
class ApiServerAddress:
    """Address and TLS settings of an API server."""

    host: str  # without the brackets of an IPv6 address
    port: int
    prefix: str = ""  # before every path, for a server behind a proxy
    tls: bool = True
    name: str = ""  # in its certificate; "": the host
    verify: bool = True
    ca: CredentialData | None = None  # PEM; None: the system's certificates

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


class Access:
    """A server and our credential for it; used by several threads."""

    def __init__(self, server: ApiServerAddress, source: CredentialSource) -> None:
        self.server = server
        self._source = source
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._made_of: tuple[bytes, bytes, bytes] | None = None

    def credential(self) -> Credential:
        """Return the credential to send now; PodtallyError if there is none."""
        return self._source.get()

    def renew(self, refused: Credential) -> None:
        """Use another credential next time: the server answered 401 to this one."""
        self._source.renew(refused)

    def close(self) -> None:
        self._source.close()

    def context(self, credential: Credential) -> ssl.SSLContext:
        """Return a TLS context; another one after a certificate or the CA has changed."""
        server = self.server
        with self._lock:
            ca = server.ca.read() if server.ca and server.verify else b""
            made_of = (ca, credential.certificate, credential.key)
            if self._context is None or made_of != self._made_of:
                self._context = _context(server, ca, credential)
                self._made_of = made_of
            return self._context


def _context(server: ApiServerAddress, ca: bytes, credential: Credential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Go trusts every certificate of the CA file, also an intermediate; API servers are Go programs.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not server.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif server.ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, ca, server.ca.where)
    if credential.certificate:
        _load_chain(context, credential)
    return context


def _load_ca(context: ssl.SSLContext, ca: bytes, where: str) -> None:
    try:
        context.load_verify_locations(cadata=ca.decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError):  # ValueError: empty
        raise PodtallyError(
            f"{where}: no PEM certificates", "put the cluster's CA certificate there"
        ) from None


def _load_chain(context: ssl.SSLContext, credential: Credential) -> None:
    """Load certificate and key through a file: OpenSSL takes only a path."""
    try:
        with _private_file(credential.certificate + b"\n" + credential.key) as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        raise PodtallyError(
            f"the client certificate and key cannot be loaded: {error.reason or 'not PEM'}",
            "give a PEM certificate and the key that belongs to it",
        ) from None


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory; elsewhere than on Linux, of one that only we can read."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("client-key")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """Replace OpenSSL's prompt at the terminal."""
    raise PodtallyError("the client key is encrypted", "give one without a pass phrase")

# SPDX-License-Identifier: Apache-2.0
"""Where the API server is, and the TLS context and credential to speak to it."""

import os
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.kube.credentials import Credential, CredentialData, CredentialSource, FileCredentials

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ApiServerAddress:
    """An API server, as a client has to know it."""

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
    """A server and who we are to it; used by several threads."""

    def __init__(self, server: ApiServerAddress, source: CredentialSource) -> None:
        self.server = server
        self._source = source
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._made_of: tuple[bytes, bytes, bytes] | None = None

    def credential(self) -> Credential:
        """Return what to send now; PodtallyError if there is nothing."""
        return self._source.get()

    def renew(self, refused: Credential) -> None:
        """Have another credential next time: the server answered 401 to this one."""
        self._source.renew(refused)

    def close(self) -> None:
        self._source.close()

    def context(self, credential: Credential) -> ssl.SSLContext:
        """Return a context for TLS, made anew when a certificate or the CA has changed."""
        server = self.server
        with self._lock:
            ca = server.ca.read() if server.ca and server.verify else b""
            made_of = (ca, credential.certificate, credential.key)
            if self._context is None or made_of != self._made_of:
                self._context = _context(server, ca, credential)
                self._made_of = made_of
            return self._context


def in_cluster(
    environment: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT
) -> Access:
    """Return the access that a pod has through its service account."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise PodtallyError(
            "not in a Kubernetes pod: KUBERNETES_SERVICE_HOST and _PORT are not set",
            "give a kubeconfig",
        )
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise PodtallyError(f"KUBERNETES_SERVICE_PORT={port!r} is no port", "give a kubeconfig")
    token = CredentialData("the service account's token", folder / "token")
    ca = CredentialData("the service account's CA", folder / "ca.crt")
    source = FileCredentials(token=token)
    source.get()
    ca.read()
    return Access(ApiServerAddress(host.strip("[]"), int(port), ca=ca), source)


def _context(server: ApiServerAddress, ca: bytes, credential: Credential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Go trusts whatever stands in the CA file, also an intermediate; clusters are made by Go.
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
    """Load certificate and key through a file in memory: OpenSSL wants a path."""
    descriptor = os.memfd_create("client-key")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(credential.certificate + b"\n" + credential.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except ssl.SSLError as error:
        raise PodtallyError(
            f"the client certificate and key cannot be loaded: {error.reason or 'not PEM'}",
            "give a PEM certificate and the key that belongs to it",
        ) from None
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """Stand in for OpenSSL's question at the terminal."""
    raise PodtallyError("the client key is encrypted", "give one without a pass phrase")

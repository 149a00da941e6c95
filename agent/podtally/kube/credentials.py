# SPDX-License-Identifier: Apache-2.0
"""Credentials for the API server: from files, or as given; never shown in a repr."""

import base64
import binascii
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from podtally.errors import PodtallyError


@dataclass(frozen=True)
class Credential:
    """What a request carries, and the TLS handshake before it."""

    authorization: str = field(default="", repr=False)  # the header's value; "": none
    certificate: bytes = field(default=b"", repr=False)  # PEM; b"": none
    key: bytes = field(default=b"", repr=False)


class CredentialSource(Protocol):
    """Provides credentials; used by several threads."""

    def get(self) -> Credential:
        """Return the credential valid now; PodtallyError if there is none."""
        ...

    def renew(self, refused: Credential) -> None:
        """Get another credential, if ``get`` would still return ``refused``."""
        ...

    def close(self) -> None:
        """Abort what is in progress."""
        ...


def bearer(token: str, where: str) -> str:
    """Return the header for a token; ``where`` names its file or field in errors."""
    token = token.strip()
    if not token:
        raise PodtallyError(f"{where}: the token is empty", "put a valid token there")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise PodtallyError(f"{where}: not a bearer token (RFC 6750, 2.1)", "put a valid one there")
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def from_base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise PodtallyError(f"{where}: not base64", "see kubectl config view --raw") from None


def read_credential(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PodtallyError(
            f"{where}: cannot read {path}: {error.strerror}", "check the path and its rights"
        ) from None


@dataclass(frozen=True)
class CredentialData:
    """Bytes of a file, which may be replaced by newer ones, or given bytes."""

    where: str  # for errors
    path: Path | None = None
    data: bytes = field(default=b"", repr=False)

    def read(self) -> bytes:
        return self.data if self.path is None else read_credential(self.path, self.where)


class FileCredentials:
    """Credentials from files, or fixed ones.

    Files are read again for every request: requests are few, and the kubelet replaces a
    projected token after four fifths of its lifetime. While a file cannot be read, its last
    content is used; the server rejects it once it has expired.
    """

    def __init__(
        self,
        authorization: str = "",
        token: CredentialData | None = None,
        certificate: CredentialData | None = None,
        key: CredentialData | None = None,
    ) -> None:
        self._authorization = authorization
        self._token = token
        self._certificate = certificate
        self._key = key
        self._last: Credential | None = None
        self._lock = threading.Lock()

    def get(self) -> Credential:
        with self._lock:
            try:
                self._last = self._read()
            except PodtallyError:
                if self._last is None:
                    raise
            return self._last

    def renew(self, refused: Credential) -> None:
        """Nothing to do: ``get`` reads the files again."""

    def close(self) -> None:
        """Nothing to do: no call is ever in progress."""

    def _read(self) -> Credential:
        authorization = self._authorization
        if self._token is not None:
            text = self._token.read().decode(errors="replace")
            authorization = bearer(text, self._token.where)
        return Credential(
            authorization,
            self._certificate.read() if self._certificate else b"",
            self._key.read() if self._key else b"",
        )

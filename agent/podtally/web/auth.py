# SPDX-License-Identifier: Apache-2.0
"""Basic authentication (RFC 7617) against bcrypt hashes, which are too slow for every scrape."""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from podtally.errors import PodtallyError

_USED_BYTES = 72  # of a password; bcrypt ignores the rest
_MAX_REFUSED = 128  # remembered
_MAX_WAITING = 8  # for a hash; verified clients never wait


class Credentials(NamedTuple):
    name: bytes
    password: bytes


def credentials(header: str) -> Credentials | None:
    """Return the credentials of an ``Authorization`` header, or None."""
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return Credentials(name, password) if colon else None


class Users:
    """The users and their bcrypt hashes.

    Hashes are computed one at a time, without the interpreter's lock. Results are remembered by
    a keyed digest, which does not reveal the password.
    """

    def __init__(self, hashes: Mapping[str, str]) -> None:
        """``hashes``: by name, not empty. PodtallyError if bcrypt rejects one."""
        import bcrypt  # noqa: PLC0415 - only where there are users

        self._check = bcrypt.checkpw
        self._key = secrets.token_bytes(32)
        self._hashes = {self._digest(name.encode()): h.encode() for name, h in hashes.items()}
        self._all = tuple(self._hashes.values())
        self._verified: dict[bytes, bytes] = {}  # one for each user
        self._refused: dict[bytes, None] = {}  # the latest
        self._hashing = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)
        for name, hashed in hashes.items():
            salt = hashed[len("$2b$10$") :][:22]
            try:
                bcrypt.hashpw(b"", f"$2b$04${salt}".encode())
            except ValueError:
                raise PodtallyError(
                    f"basic_auth_users.{name}: invalid bcrypt hash",
                    "create one: htpasswd -nBC 10 USER",
                ) from None

    def authenticate(self, given: Credentials) -> HTTPStatus:
        """Return OK, UNAUTHORIZED, or TOO_MANY_REQUESTS while too many wait for a hash."""
        user, claim = self._digest(given.name), self._digest(*given)
        if self._is_verified(user, claim):
            return HTTPStatus.OK
        if claim in self._refused:
            return HTTPStatus.UNAUTHORIZED
        if not self._waiting.acquire(blocking=False):
            return HTTPStatus.TOO_MANY_REQUESTS
        try:
            with self._hashing:
                if self._is_verified(user, claim) or self._compute(user, claim, given.password):
                    return HTTPStatus.OK
        finally:
            self._waiting.release()
        return HTTPStatus.UNAUTHORIZED

    def _is_verified(self, user: bytes, claim: bytes) -> bool:
        return hmac.compare_digest(claim, self._verified.get(user, b""))

    def _compute(self, user: bytes, claim: bytes, password: bytes) -> bool:
        """Check the password; an unknown user's against another hash, to take as long."""
        hashed = self._hashes.get(user)
        other = self._all[int.from_bytes(user[:8], "big") % len(self._all)]
        matches = self._check(password[:_USED_BYTES], hashed or other)
        if matches and hashed is not None:
            self._verified[user] = claim
            return True
        while len(self._refused) >= _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[claim] = None
        return False

    def _digest(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

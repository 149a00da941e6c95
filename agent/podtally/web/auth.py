# SPDX-License-Identifier: Apache-2.0
"""Basic authentication (RFC 7617) against bcrypt hashes, which cost what a scrape must not."""

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

_USED_BYTES = 72  # of a password; bcrypt has no room for more
_MOST_REFUSED = 128  # that are remembered
_MOST_WAITING = 8  # for a hash; beyond, whoever is known already still enters


class Credentials(NamedTuple):
    name: bytes
    password: bytes


def credentials(header: str) -> Credentials | None:
    """Return what an ``Authorization`` header tells, if it is one of these."""
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return Credentials(name, password) if colon else None


class Users:
    """Who may enter. Hashes are computed one at a time, without the interpreter's lock; whom a
    hash let in, or kept out, is known afterwards by a keyed digest, which tells nobody anything.
    """

    def __init__(self, hashes: Mapping[str, str]) -> None:
        """``hashes``: of at least one user. PodtallyError, if bcrypt takes one for none."""
        import bcrypt  # noqa: PLC0415 - only where there are users

        self._check = bcrypt.checkpw
        self._key = secrets.token_bytes(32)
        self._hashes = {self._digest(name.encode()): h.encode() for name, h in hashes.items()}
        self._all = tuple(self._hashes.values())
        self._verified: dict[bytes, bytes] = {}  # one for each user
        self._refused: dict[bytes, None] = {}  # the latest
        self._hashing = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        for name, hashed in hashes.items():
            salt = hashed[len("$2b$10$") :][:22]
            try:
                bcrypt.hashpw(b"", f"$2b$04${salt}".encode())
            except ValueError:
                raise PodtallyError(
                    f"basic_auth_users.{name}: this is no bcrypt hash",
                    "make one: htpasswd -nBC 10 USER",
                ) from None

    def judge(self, given: Credentials) -> HTTPStatus:
        """OK, UNAUTHORIZED, or TOO_MANY_REQUESTS while strangers keep it busy."""
        who, claim = self._digest(given.name), self._digest(*given)
        if self._is_verified(who, claim):
            return HTTPStatus.OK
        if claim in self._refused:
            return HTTPStatus.UNAUTHORIZED
        if not self._waiting.acquire(blocking=False):
            return HTTPStatus.TOO_MANY_REQUESTS
        try:
            with self._hashing:
                if self._is_verified(who, claim) or self._compute(who, claim, given.password):
                    return HTTPStatus.OK
        finally:
            self._waiting.release()
        return HTTPStatus.UNAUTHORIZED

    def _is_verified(self, who: bytes, claim: bytes) -> bool:
        return hmac.compare_digest(claim, self._verified.get(who, b""))

    def _compute(self, who: bytes, claim: bytes, password: bytes) -> bool:
        """A stranger is held against somebody's hash, always the same one's: it takes as long."""
        hashed = self._hashes.get(who)
        other = self._all[int.from_bytes(who[:8], "big") % len(self._all)]
        matches = self._check(password[:_USED_BYTES], hashed or other)
        if matches and hashed is not None:
            self._verified[who] = claim
            return True
        while len(self._refused) >= _MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[claim] = None
        return False

    def _digest(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

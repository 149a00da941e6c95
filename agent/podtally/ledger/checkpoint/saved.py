# SPDX-License-Identifier: Apache-2.0
"""What parts of the ledger hand to the checkpoint, and take back from it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Value = TypeVar("Value")
_encoder = msgspec.json.Encoder()


class SavedError(Exception):
    """A part cannot be restored; the text says why."""


class Saved(NamedTuple):
    """One part: its values as JSON, its arrays by name."""

    values: bytes = b"null"
    arrays: Mapping[str, Array] = {}

    def decode(self, kind: type[Value]) -> Value:
        try:
            return msgspec.json.decode(self.values, type=kind)
        except msgspec.DecodeError as error:
            raise SavedError(str(error)) from None

    def array(self, name: str) -> Array:
        """Return a copy that can be written to."""
        if name not in self.arrays:
            raise SavedError(f"the array {name} is missing")
        return np.array(self.arrays[name])


class Part(Protocol):
    """Restores itself from what it saved."""

    def save(self) -> Saved: ...

    def load(self, saved: Saved, now_ns: int) -> None: ...


def encode(values: object) -> bytes:
    return _encoder.encode(values)


class EncodedOnce:
    """Encodes values again only if their version has changed."""

    def __init__(self) -> None:
        self._version, self._encoded = -1, b""

    def encode(self, version: int, values: Callable[[], object]) -> bytes:
        if version != self._version:
            self._version, self._encoded = version, encode(values())
        return self._encoded

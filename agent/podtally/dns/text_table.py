# SPDX-License-Identifier: Apache-2.0
"""Texts by number, each once, in half of the memory of as many Python strings. Immutable.

They are kept as the checkpoint has them, so saving them makes no strings.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class TextTable:
    """Number i is ``blob[ends[i - 1]:ends[i]]``, in JSON and with a comma; found by its hash."""

    __slots__ = ("_blob", "_ends", "_hashes", "_order")

    def __init__(self, texts: Sequence[str] = ("",)) -> None:
        """``texts``: each once."""
        blob, ends = _encoded(texts)
        self._set(blob, ends, np.fromiter(map(hash, texts), np.int64, len(texts)))

    def _set(self, blob: bytes, ends: NDArray[np.int64], hashes: NDArray[np.int64]) -> None:
        """``hashes`` in the order of the numbers."""
        self._blob, self._ends = blob, ends.astype(np.uint32)
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        start = int(self._ends[number - 1]) if number else 0
        item = self._blob[start + 1 : int(self._ends[number]) - 2]
        text: str = item.decode() if b"\\" not in item else msgspec.json.decode(b'"%b"' % item)
        return text

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextTable) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def number(self, text: str) -> int:
        """Return the number of a text; -1: it is not there."""
        return self.numbers([text])[0]

    def numbers(self, texts: Sequence[str]) -> list[int]:
        """Return the number of each text; -1: it is not there."""
        wanted = np.fromiter(map(hash, texts), np.int64, len(texts))
        first = np.searchsorted(self._hashes, wanted)
        last = np.searchsorted(self._hashes, wanted, side="right")
        spans = zip(texts, first.tolist(), last.tolist(), strict=True)
        return [self._among(text, start, stop) for text, start, stop in spans]

    def _among(self, text: str, start: int, stop: int) -> int:
        for place in range(start, stop):
            number = int(self._order[place])
            if self[number] == text:
                return number
        return -1

    def with_texts(self, texts: Iterable[str]) -> "tuple[TextTable, dict[str, int]]":
        """Return the table with more texts, and the numbers of these."""
        wanted = list(dict.fromkeys(texts))
        found = dict(zip(wanted, self.numbers(wanted), strict=True))
        new = [text for text, number in found.items() if number < 0]
        if not new:
            return self, found
        found |= {text: len(self) + place for place, text in enumerate(new)}
        blob, ends = _encoded(new)
        ends = np.concatenate([self._ends, len(self._blob) + ends])
        fresh = np.fromiter(map(hash, new), np.int64, len(new))
        made = TextTable.__new__(TextTable)
        made._set(self._blob + blob, ends, np.concatenate([self._by_number(), fresh]))
        return made, found

    def _by_number(self) -> NDArray[np.int64]:
        """Return the hashes in the order of the numbers."""
        hashes = np.empty_like(self._hashes)
        hashes[self._order] = self._hashes
        return hashes

    def take(self, numbers: Iterable[int]) -> "TextTable":
        """Return the table of these texts, in this order."""
        return TextTable([self[number] for number in numbers])

    def json(self) -> msgspec.Raw:
        """Return a list of the texts, in JSON."""
        return msgspec.Raw(b"[%b]" % self._blob[:-1])


def from_json(saved: msgspec.Raw) -> TextTable:
    """Return what ``json`` gave; ValueError if it is something else."""
    try:
        texts = msgspec.json.decode(saved, type=list[str])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if len(set(texts)) != len(texts):
        raise ValueError("a text is there twice")
    return TextTable(texts)


def _encoded(texts: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """Return texts in JSON, and where each ends."""
    items = [msgspec.json.encode(text) + b"," for text in texts]
    return b"".join(items), np.cumsum(np.fromiter(map(len, items), np.int64, len(items)))

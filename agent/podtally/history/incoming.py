# SPDX-License-Identifier: Apache-2.0
"""Turns a batch of the ledger into values of the embedded store's columns."""

import socket
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.history.sqlite_schema import BASE_SECONDS, CONVERSATION_BITS, MINUTE, Tier
from podtally.ledger.recording.history_rows import HistoryRows

_SECOND = 1_000_000_000
_MAPPED = b"\0" * 10 + b"\xff\xff"
_KEY = np.dtype(
    [
        ("labels", "u4", (3,)),
        ("address", "u8", (2,)),
        ("port", "i4"),
        ("protocol", "u1"),
        ("initiator", "u1"),
    ]
)


class ConversationKey(NamedTuple):
    """The key of a conversation; the first three are numbers in the dictionaries."""

    endpoint: int
    peer: int
    judgement: int
    address: str
    protocol: int
    port: int
    initiator: int


class ConversationKeys:
    """Keys of a batch's rows; ``ids`` (labels, 3) are the dictionaries' numbers of its labels."""

    def __init__(self, rows: HistoryRows, ids: NDArray[np.int64]) -> None:
        self._keys = np.zeros(len(rows.minute), _KEY)
        self._keys["labels"] = ids[rows.label]
        for name in ("address", "port", "protocol", "initiator"):
            self._keys[name] = getattr(rows, name)

    def packed(self) -> list[bytes]:
        """Return each as bytes. (n,)"""
        raw, size = self._keys.tobytes(), _KEY.itemsize
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def at(self, index: list[int]) -> list[ConversationKey]:
        some = self._keys[index]
        texts = address_texts(some["address"])
        parts = zip(
            some["labels"].tolist(),
            texts,
            some["protocol"].tolist(),
            some["port"].tolist(),
            some["initiator"].tolist(),
            strict=True,
        )
        return [ConversationKey(*labels, *rest) for labels, *rest in parts]


def address_texts(addresses: NDArray[np.uint64]) -> list[str]:
    """Return addresses (n, 2), in network order, as people write them; "" for none."""
    raw = np.ascontiguousarray(addresses).tobytes()
    texts: dict[bytes, str] = {bytes(16): ""}
    found = []
    for at in range(0, len(raw), 16):
        packed = raw[at : at + 16]
        text = texts.get(packed)
        if text is None:
            is_ipv4 = packed.startswith(_MAPPED)
            family = socket.AF_INET if is_ipv4 else socket.AF_INET6
            text = texts[packed] = socket.inet_ntop(family, packed[12:] if is_ipv4 else packed)
        found.append(text)
    return found


def intervals(rows: HistoryRows, tier: Tier) -> NDArray[np.int64]:
    """Return the interval of a tier that each row belongs to. (n,)"""
    since = np.maximum(rows.minute * MINUTE.seconds - BASE_SECONDS, 0)
    return since // tier.seconds


def tier_rows(
    rows: HistoryRows, conversations: NDArray[np.int64], tier: Tier
) -> Iterator[tuple[int, ...]]:
    """Return rows for a tier's table, in the order of their ids."""
    at = intervals(rows, tier)
    begin_ns = (at * tier.seconds + BASE_SECONDS) * _SECOND
    first = np.clip((rows.first_ns - begin_ns) // _SECOND, 0, tier.seconds - 1)
    last = np.clip((rows.last_ns - begin_ns) // _SECOND, 0, tier.seconds - 1)
    ids = at << CONVERSATION_BITS | conversations
    order = np.argsort(ids, kind="stable")
    columns = (
        *(ids, rows.bytes[:, 0], rows.bytes[:, 1], rows.packets[:, 0], rows.packets[:, 1]),
        *(rows.connections, np.minimum(first, last) * tier.span + last),
    )
    return zip(*(column[order].tolist() for column in columns), strict=True)

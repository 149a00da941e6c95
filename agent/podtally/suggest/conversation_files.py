# SPDX-License-Identifier: Apache-2.0
"""Reads conversations from JSON: rows of this package, or an answer of `podtally flows`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from podtally.errors import PodtallyError
from podtally.policy.model import EGRESS, INGRESS, UNKNOWN, VERDICTS
from podtally.suggest.conversation import Conversations, ObservedConversation
from podtally.suggest.history_rows import FlowsReply, conversations_of


class _ObjectShape(msgspec.Struct, frozen=True):
    """Says which of two kinds an object is."""

    conversations: msgspec.Raw = msgspec.Raw(b"")
    rows: msgspec.Raw = msgspec.Raw(b"")


def read_conversations(text: bytes, name: str) -> Conversations:
    """Read an object with ``conversations``, a list, or a row on each line; PodtallyError."""
    try:
        read = _decoded(text)
    except (msgspec.DecodeError, ValueError) as error:
        raise PodtallyError(
            f"{name}: {error}", "give JSON rows: podtally suggest --help describes them"
        ) from None
    for number, each in enumerate(read.conversations, 1):
        wrong = _fault(each)
        if wrong:
            raise PodtallyError(f"{name}: conversation {number}: {wrong}")
    return read


def _decoded(text: bytes) -> Conversations:
    start = text.lstrip()[:1]
    if start == b"[":
        return Conversations(msgspec.json.decode(text, type=list[ObservedConversation]))
    try:
        shape = msgspec.json.decode(text, type=_ObjectShape)
    except msgspec.DecodeError:  # several values: a row on each line
        return Conversations(list(_lines(text)))
    if bytes(shape.rows):
        return conversations_of(msgspec.json.decode(text, type=FlowsReply))
    if bytes(shape.conversations):
        return msgspec.json.decode(text, type=Conversations)
    return Conversations(list(_lines(text)))


def _lines(text: bytes) -> Iterator[ObservedConversation]:
    decoder = msgspec.json.Decoder(ObservedConversation)
    for line in text.splitlines():
        if line.strip():
            yield decoder.decode(line)


def _fault(each: ObservedConversation) -> str:
    allowed: dict[str, tuple[Any, ...]] = {
        "direction": (INGRESS, EGRESS, UNKNOWN),
        "verdict": VERDICTS,
    }
    for field, values in allowed.items():
        given = getattr(each, field)
        if given not in values:
            return f"{field} is {given!r}; use one of {', '.join(values)}"
    return "" if 0 <= each.port <= 65535 else f"port {each.port} is not from 0 to 65535"

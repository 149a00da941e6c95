# SPDX-License-Identifier: Apache-2.0
"""Conversations as the history has them: one row for each endpoint, peer, port and verdict."""

from collections.abc import Iterator
from typing import Any

import msgspec

from podtally.errors import PodtallyError
from podtally.policy.model import EGRESS, INGRESS, UNDECLARED, UNKNOWN, VERDICTS

EXTERNAL, POD_PEER, NODE_PEER, HOST_PEER = "external", "pod", "node", "host"

FAILED_OUTCOMES = frozenset({"refused", "unanswered", "rejected", "half_open"})


class ObservedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """What one workload exchanged with one peer; times in seconds since 1970."""

    namespace: str
    workload: str
    direction: str  # ingress, egress; unknown: the opening was not seen
    peer_kind: str = EXTERNAL
    peer_namespace: str = ""
    peer_workload: str = ""  # of a node: its name
    peer_address: str = ""
    domain: str = ""
    protocol: str = "TCP"
    port: int = 0  # the destination's own; 0: unknown
    verdict: str = UNDECLARED
    outcome: str = ""  # "": not recorded
    first: float = 0.0
    last: float = 0.0
    connections: int = 1
    bytes: int = 0
    node: str = ""  # of the endpoint; "": not recorded
    # The pods' labels at the time; empty: those of the workload's present pods.
    labels: dict[str, str] = {}
    peer_labels: dict[str, str] = {}


class Conversations(msgspec.Struct, frozen=True):
    """A file of conversations; ``since`` and ``until`` bound the window."""

    conversations: list[ObservedConversation]
    since: float = 0.0  # 0: the first conversation
    until: float = 0.0


def read_conversations(text: bytes, name: str) -> Conversations:
    """Read an object with ``conversations``, a list, or a row on each line; PodtallyError."""
    try:
        read = _decoded(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
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
    if b'"conversations"' in text[:4096]:
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


def window_of(read: Conversations) -> tuple[float, float]:
    """Return when the window starts and ends."""
    rows = read.conversations
    since = read.since or min((each.first for each in rows), default=0.0)
    until = read.until or max((each.last for each in rows), default=since)
    return since, until

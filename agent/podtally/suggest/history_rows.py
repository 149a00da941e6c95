# SPDX-License-Identifier: Apache-2.0
"""Converts rows of `podtally flows --connections` to conversations."""

from datetime import datetime

import msgspec

from podtally.policy.model import EGRESS, INGRESS, UNDECLARED, UNKNOWN
from podtally.suggest.conversation import Conversations, ObservedConversation

_DIRECTIONS = {"endpoint": EGRESS, "peer": INGRESS}  # by initiator


class _Sides(msgspec.Struct, frozen=True):
    egress: int = 0
    ingress: int = 0


class FlowsRow(msgspec.Struct, frozen=True):
    """A row of the history: labels of the conversation, and sums."""

    first: str
    last: str
    namespace: str = ""
    workload: str = ""
    initiator: str = UNKNOWN
    peer_kind: str = UNKNOWN
    peer_namespace: str = ""
    peer_workload: str = ""
    peer_domain: str = ""
    address: str = ""
    protocol: str = ""
    port: str = ""
    verdict: str = UNDECLARED
    outcome: str = ""
    connections: int = 0
    bytes: _Sides = _Sides()


class FlowsReply(msgspec.Struct, frozen=True):
    rows: list[FlowsRow]
    since: str
    until: str


def conversations_of(reply: FlowsReply) -> Conversations:
    """Return the conversations of a reply, with its window; ValueError for an invalid time."""
    found = list(map(_conversation, reply.rows))
    return Conversations(found, _seconds(reply.since), _seconds(reply.until))


def _conversation(row: FlowsRow) -> ObservedConversation:
    return ObservedConversation(
        namespace=row.namespace,
        workload=row.workload,
        direction=_DIRECTIONS.get(row.initiator, UNKNOWN),
        peer_kind=row.peer_kind,
        peer_namespace=row.peer_namespace,
        peer_workload=row.peer_workload,
        peer_address=row.address,
        domain=row.peer_domain,
        protocol=row.protocol.upper(),
        port=int(row.port) if row.port.isdecimal() else 0,
        verdict=row.verdict,
        outcome=row.outcome,
        first=_seconds(row.first),
        last=_seconds(row.last),
        connections=row.connections,
        bytes=row.bytes.egress + row.bytes.ingress,
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()

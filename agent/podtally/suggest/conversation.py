# SPDX-License-Identifier: Apache-2.0
"""Conversations as the history has them: one row for each endpoint, peer, port and verdict."""

import msgspec

from podtally.policy.model import UNDECLARED

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


def window_of(read: Conversations) -> tuple[float, float]:
    """Return when the window starts and ends."""
    rows = read.conversations
    since = read.since or min((each.first for each in rows), default=0.0)
    until = read.until or max((each.last for each in rows), default=since)
    return since, until

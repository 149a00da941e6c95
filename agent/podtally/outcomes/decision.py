# SPDX-License-Identifier: Apache-2.0
"""Decide what became of connections, each once: whether it worked, and how it ended."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.outcomes.progress import (
    RECEIVED,
    REJECTED,
    SENT,
    TCP,
    TCP_ACK,
    TCP_RST,
    HandshakeBits,
    Progress,
)

OUTCOMES = (
    "",  # not decided yet
    "established",
    "answered",
    "refused",
    "rejected",
    "unanswered",
    "half_open",
    "unknown",
)
UNDECIDED, ESTABLISHED, ANSWERED, REFUSED, REJECTED_BY_ICMP, UNANSWERED, HALF_OPEN, UNKNOWN = range(
    len(OUTCOMES)
)
FAILED = (REFUSED, REJECTED_BY_ICMP, UNANSWERED, HALF_OPEN)

ENDINGS = ("", "closed", "reset_by_endpoint", "reset_by_peer", "open")
NO_ENDING, CLOSED, RESET_BY_ENDPOINT, RESET_BY_PEER, OPEN = range(len(ENDINGS))

_TCP_FIN = 1
_SECOND = 1_000_000_000
# After an error, a packet that comes late may still show that the connection works.
_REJECTED_NS = 3 * _SECOND
_ONE_WAY_NS = 30 * _SECOND  # other protocols than TCP, from their first packet
_SYN_NS, _MAX_SYN_NS = 10 * _SECOND, 110 * _SECOND  # of silence: see _syn_patience
_HALF_OPEN_NS = 40 * _SECOND  # five retransmissions of a SYN/ACK (tcp_synack_retries) take 31 s


class DecisionInput(NamedTuple):
    """Connections; index i of every array is the same one."""

    progress: Progress
    seen: NDArray[np.uint64]  # the union of their rows' flags
    protocol: NDArray[np.uint8]
    opener: NDArray[np.int64]  # 0 the endpoint, 1 its peer, -1 unknown
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]


def decide(given: DecisionInput, now_ns: int, bits: HandshakeBits, over: bool) -> NDArray[np.uint8]:
    """Return OUTCOMES of connections; UNDECIDED for those that may still change. (n,)

    ``over``: the connections are forgotten now.
    """
    tcp = _decide_tcp(given, now_ns, bits, over)
    others = _decide_others(given, now_ns, over)
    found = np.where(given.protocol == TCP, tcp, others)
    return np.where(given.opener < 0, UNKNOWN if over else UNDECIDED, found).astype(np.uint8)


def _decide_tcp(
    given: DecisionInput, now_ns: int, bits: HandshakeBits, over: bool
) -> NDArray[np.int64]:
    opener, server = by_side(given.seen, given.opener, bits.shift)
    syn, acks = _has(opener, bits.syn_only), _has(opener, TCP_ACK)
    accepted, resets = _has(server, bits.syn_ack), _has(server, TCP_RST)
    silent_ns = now_ns - given.last_ns
    rejected = given.progress["facts"] & REJECTED != 0
    unanswered = syn & (server & np.uint64(0xFF) == 0)
    waited = silent_ns >= _syn_patience(given.progress["retries"])
    return np.select(
        [
            acks & (syn | accepted),
            syn & resets & ~accepted & over,
            syn & rejected & ~accepted & (over | (silent_ns >= _REJECTED_NS)),
            syn & accepted & (over | (silent_ns >= _HALF_OPEN_NS)),
            unanswered & waited,
            ~syn & ~accepted | over,
        ],
        [ESTABLISHED, REFUSED, REJECTED_BY_ICMP, HALF_OPEN, UNANSWERED, UNKNOWN],
        UNDECIDED,
    )


def _decide_others(given: DecisionInput, now_ns: int, over: bool) -> NDArray[np.int64]:
    facts, age_ns = given.progress["facts"], now_ns - given.first_ns
    return np.select(
        [
            facts & (SENT | RECEIVED) == SENT | RECEIVED,
            (facts & REJECTED != 0) & (over | (age_ns >= _REJECTED_NS)),
            age_ns >= _ONE_WAY_NS,
            np.full(len(facts), over),
        ],
        [ANSWERED, REJECTED_BY_ICMP, UNANSWERED, UNKNOWN],
        UNDECIDED,
    )


def _syn_patience(retries: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how long a silence shows that the client gave up, by the SYNs it repeated. (n,)

    The gap between SYNs doubles (RFC 6298); three times the next gap is no gap any more.
    """
    gap = 3 * _SECOND << np.minimum(retries, 6).astype(np.int64)
    patience: NDArray[np.int64] = np.clip(gap, _SYN_NS, _MAX_SYN_NS)
    return patience


def endings(outcome: NDArray[np.uint8], seen: NDArray[np.uint64], shift: int) -> NDArray[np.uint8]:
    """Return ENDINGS of TCP connections that were established; NO_ENDING for others. (n,)"""
    endpoint, peer = seen, seen >> np.uint64(shift)
    closed = _has(endpoint, _TCP_FIN) & _has(peer, _TCP_FIN)
    found = np.select(
        [closed, _has(peer, TCP_RST), _has(endpoint, TCP_RST)],
        [CLOSED, RESET_BY_PEER, RESET_BY_ENDPOINT],
        OPEN,
    )
    return np.where(outcome == ESTABLISHED, found, NO_ENDING).astype(np.uint8)


def by_side(
    seen: NDArray[np.uint64], opener: NDArray[np.int64], shift: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the facts of the opener, and of the other side, in the lowest bits. (n,) each"""
    endpoint, peer = seen, seen >> np.uint64(shift)
    return np.where(opener == 0, endpoint, peer), np.where(opener == 0, peer, endpoint)


def _has(seen: NDArray[np.uint64], bit: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = seen & np.uint64(bit) != 0
    return has

# SPDX-License-Identifier: Apache-2.0
"""Compare verdicts with what became of connections: does the cluster enforce its policies?

What a single end cannot show is INCONCLUSIVE: a lost answer of an external host, a protocol that
need not answer, a connection that was under way before it was watched, datagrams that may be two
openings instead of a question and its answer, an answer that another pod may have forged.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.outcomes.decision import (
    ANSWERED,
    ESTABLISHED,
    HALF_OPEN,
    REFUSED,
    REJECTED_BY_ICMP,
    UNANSWERED,
)
from podtally.outcomes.progress import RELAYED, TCP, Progress

RESULTS = ("", "enforced", "not_enforced", "blocked", "passed", "inconclusive", "unavailable")
NO_RESULT, ENFORCED, NOT_ENFORCED, BLOCKED, PASSED, INCONCLUSIVE, UNAVAILABLE = range(len(RESULTS))
FINDINGS = (NOT_ENFORCED, BLOCKED)

# What policy says of a connection at the local endpoint: bits of a stance.
DENIED, ALLOWED = 1, 2  # only where policies isolate the endpoint
PEER_OUTSIDE = 4  # not of the cluster: whether it is up is unknown
PEER_SERVICE = 8  # behind it, a pod that is not known
DENIED_BY_PEER = 16  # by the policies of the peer alone

# Types and codes, ``type << 8 | code``: administratively prohibited and the like.
_PROHIBITED = (3 << 8 | 9, 3 << 8 | 10, 3 << 8 | 13)
_PROHIBITED6 = (1 << 8 | 1, 1 << 8 | 5, 1 << 8 | 6)
_PORT_UNREACHABLE, _PORT_UNREACHABLE6 = 3 << 8 | 3, 1 << 8 | 4
_EGRESS, _INGRESS = 0, 1
GOT_THROUGH = (ESTABLISHED, ANSWERED, HALF_OPEN)
_STOPPED = (REFUSED, REJECTED_BY_ICMP, UNANSWERED)
_FIRST_EPHEMERAL = 32768  # net.ipv4.ip_local_port_range


class AuditInput(NamedTuple):
    """Decided connections; index i of every array is the same one."""

    stance: NDArray[np.uint8]
    outcome: NDArray[np.uint8]
    opener: NDArray[np.int64]  # 0 the endpoint, 1 its peer
    protocol: NDArray[np.uint8]
    is_ipv6: NDArray[np.bool_]
    progress: Progress
    client_port: NDArray[np.uint16]  # of the opener
    forged: NDArray[np.bool_]  # another endpoint of this host sends in the peer's name


def results(given: AuditInput) -> NDArray[np.uint8]:
    """Return RESULTS; NO_RESULT where no policy isolates the endpoint. (n,)"""
    denied, allowed = given.stance & DENIED != 0, given.stance & ALLOWED != 0
    return np.select([denied, allowed], [_of_denied(given), _of_allowed(given)], NO_RESULT).astype(
        np.uint8
    )


def stopped_for_peer(given: AuditInput) -> NDArray[np.bool_]:
    """Return which connections that only the peer's policies deny were stopped, as seen at the
    client: where packets are dropped before the server's interface, it is seen there only. What
    got through is seen at the server. (n,)
    """
    denied = given.stance & DENIED_BY_PEER != 0
    stopped: NDArray[np.bool_] = np.isin(given.outcome, _STOPPED) & (given.opener == _EGRESS)
    found: NDArray[np.bool_] = denied & stopped
    return found


def _of_denied(given: AuditInput) -> NDArray[np.int64]:
    """A refusal or an ICMP error at the end that was to be protected is its own: the packet that
    policy denies has reached it. At the other end it may be the data plane's. Datagrams both ways
    are a question and its answer only if nothing would be sent to the opener's port otherwise.
    """
    outcome, inside = given.outcome, given.opener == _INGRESS
    passed = np.isin(outcome, GOT_THROUGH)
    two_openings = (outcome == ANSWERED) & (given.client_port < _FIRST_EPHEMERAL)
    doubtful = two_openings | (given.forged & passed)
    own_refusal = inside & np.isin(outcome, (REFUSED, REJECTED_BY_ICMP))
    stopped = np.isin(outcome, _STOPPED)
    return np.select(
        [doubtful, passed | own_refusal, stopped],
        [INCONCLUSIVE, NOT_ENFORCED, ENFORCED],
        INCONCLUSIVE,
    )


def _of_allowed(given: AuditInput) -> NDArray[np.int64]:
    outcome, icmp = given.outcome, given.progress["icmp"]
    relayed = given.progress["facts"] & RELAYED != 0
    tcp = given.protocol == TCP
    closed = icmp == np.where(given.is_ipv6, _PORT_UNREACHABLE6, _PORT_UNREACHABLE)
    prohibited = np.where(given.is_ipv6, np.isin(icmp, _PROHIBITED6), np.isin(icmp, _PROHIBITED))
    # A host answers TCP to a closed port with a RST: such an error is a firewall's.
    prohibited |= closed & (tcp | relayed)
    silent = tcp & (outcome == UNANSWERED) & (given.progress["retries"] > 0)
    silent &= (given.stance & PEER_OUTSIDE == 0) | (given.opener == _INGRESS)
    worked = np.isin(outcome, (ESTABLISHED, ANSWERED, REFUSED, HALF_OPEN))
    rejected = outcome == REJECTED_BY_ICMP
    # kube-proxy and others reject connections to a Service without endpoints like this.
    no_endpoints = rejected & closed & (given.stance & PEER_SERVICE != 0)
    return np.select(
        [
            no_endpoints,
            worked | (rejected & closed & ~prohibited),
            (rejected & prohibited) | silent,
        ],
        [UNAVAILABLE, PASSED, BLOCKED],
        INCONCLUSIVE,
    )

# SPDX-License-Identifier: Apache-2.0
"""Compare verdicts with what became of connections: does the cluster enforce its policies?

What a single end cannot show is INCONCLUSIVE: a lost answer of an external host, a protocol that
need not answer, a connection that was under way before it was watched.
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

RESULTS = ("", "enforced", "not_enforced", "blocked", "passed", "inconclusive")
NO_RESULT, ENFORCED, NOT_ENFORCED, BLOCKED, PASSED, INCONCLUSIVE = range(len(RESULTS))
FINDINGS = (NOT_ENFORCED, BLOCKED)

# What policy says of a connection at the local endpoint: bits of a stance.
DENIED, ALLOWED = 1, 2  # only where policies isolate the endpoint
PEER_OUTSIDE = 4  # not of the cluster: whether it is up is unknown

# Types and codes, ``type << 8 | code``: administratively prohibited and the like.
_PROHIBITED = (3 << 8 | 9, 3 << 8 | 10, 3 << 8 | 13)
_PROHIBITED6 = (1 << 8 | 1, 1 << 8 | 5, 1 << 8 | 6)
_PORT_UNREACHABLE, _PORT_UNREACHABLE6 = 3 << 8 | 3, 1 << 8 | 4
_EGRESS, _INGRESS = 0, 1


class AuditInput(NamedTuple):
    """Decided connections; index i of every array is the same one."""

    stance: NDArray[np.uint8]
    outcome: NDArray[np.uint8]
    opener: NDArray[np.int64]  # 0 the endpoint, 1 its peer
    protocol: NDArray[np.uint8]
    is_ipv6: NDArray[np.bool_]
    progress: Progress


def results(given: AuditInput) -> NDArray[np.uint8]:
    """Return RESULTS; NO_RESULT where no policy isolates the endpoint. (n,)"""
    denied, allowed = given.stance & DENIED != 0, given.stance & ALLOWED != 0
    return np.select([denied, allowed], [_of_denied(given), _of_allowed(given)], NO_RESULT).astype(
        np.uint8
    )


def _of_denied(given: AuditInput) -> NDArray[np.int64]:
    """A refusal or an ICMP error at the end that was to be protected is its own: the packet that
    policy denies has reached it. At the other end it may be the data plane's.
    """
    outcome, inside = given.outcome, given.opener == _INGRESS
    passed = np.isin(outcome, (ESTABLISHED, ANSWERED, HALF_OPEN))
    own_refusal = inside & np.isin(outcome, (REFUSED, REJECTED_BY_ICMP))
    stopped = np.isin(outcome, (REFUSED, REJECTED_BY_ICMP, UNANSWERED))
    return np.select([passed | own_refusal, stopped], [NOT_ENFORCED, ENFORCED], INCONCLUSIVE)


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
    return np.select(
        [worked | (rejected & closed & ~prohibited), (rejected & prohibited) | silent],
        [PASSED, BLOCKED],
        INCONCLUSIVE,
    )

# SPDX-License-Identifier: Apache-2.0
"""The verdicts of connections as columns, combined where either side may have opened them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.connections import (
    CONTESTED,
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
)
from podtally.ledger.verdicts.judge_input import JudgeInput
from podtally.policy.model import (
    ALLOWED,
    DENIED,
    UNKNOWN,
    VERDICTS,
    Block,
    DirectionVerdict,
    DomainPeer,
)
from podtally.policy.reference import engine

NAMES = "names"  # a cause: not all DNS of the endpoint was seen
NOT_JUDGED = -1  # policies were not evaluated
# Causes of an `unknown` that is reported where a policy isolates. Unreadable objects and selectors
# that cannot be evaluated have alerts of their own.
_UNDECIDED = (engine.PROTOCOL, engine.UNKNOWN_END, engine.DOUBT, engine.SAME_PRIORITY)
_UNKNOWN, _DENIED = VERDICTS.index(UNKNOWN), VERDICTS.index(DENIED)
_ALLOWED = VERDICTS.index(ALLOWED)


class VerdictColumns(NamedTuple):
    """Of connections; index i of every array is the same one."""

    verdict: NDArray[np.uint8]  # local and peer combined
    local: NDArray[np.int32]  # the number of the local outcome; NOT_JUDGED
    peer: NDArray[np.int32]  # the peer's
    local_verdict: NDArray[np.uint8]  # of the local endpoint's policies alone
    opened: NDArray[np.uint8]  # INITIATOR_*: the opening that was judged
    port_known: NDArray[np.bool_]  # whether the port of that opening is the server's
    local_strict: NDArray[np.uint8]  # the local verdict where DNS answers end with their TTL
    in_doubt: NDArray[np.bool_]  # one opening is denied locally, and it may have been the other

    def put(self, rows: NDArray[np.int64], part: "VerdictColumns") -> None:
        for name in VerdictColumns._fields:
            getattr(self, name)[rows] = getattr(part, name)

    def are_by_expired(self) -> NDArray[np.bool_]:
        """Return which are allowed by a DNS answer that had expired, and denied without. (n,)"""
        allowed = (self.verdict == _ALLOWED) & (self.local_verdict == _ALLOWED)
        found: NDArray[np.bool_] = allowed & (self.local_strict == _DENIED)
        return found

    def decisive(self) -> NDArray[np.int64]:
        """Return the outcome that decides the verdict; the local one, if both do. (n,)"""
        return np.where(self.local_verdict == self.verdict, self.local, self.peer).astype(np.int64)


def no_verdicts(count: int) -> VerdictColumns:
    """Return unknown verdicts, without an evaluation."""
    none, unknown = np.full(count, NOT_JUDGED, np.int32), np.full(count, _UNKNOWN, np.uint8)
    no = np.zeros(count, np.bool_)
    opened = np.full(count, INITIATOR_UNKNOWN, np.uint8)
    return VerdictColumns(
        verdict=unknown,
        local=none,
        peer=none.copy(),
        local_verdict=unknown.copy(),
        opened=opened,
        port_known=no,
        local_strict=unknown.copy(),
        in_doubt=no.copy(),
    )


def cause_label(outcome: DirectionVerdict) -> str:
    """Return the cause of an unknown verdict for the metrics: NAMES for a rule by domain name."""
    rule = outcome.rule
    if outcome.cause == engine.DOUBT and rule is not None:
        peers = [peer for peer in rule.peers or () if not isinstance(peer, Block)]
        if peers and all(isinstance(peer, DomainPeer) for peer in peers):
            return NAMES
    return outcome.cause


def is_undecided(outcome: DirectionVerdict) -> bool:
    """Return whether policies certainly select the endpoint and yet do not decide."""
    return bool(outcome.policies) and outcome.cause in _UNDECIDED


def combine_openings(
    local: VerdictColumns, peer: VerdictColumns, given: JudgeInput
) -> VerdictColumns:
    """Combine the verdicts if the local endpoint opened the connections and if the peer did.

    What both openings agree on holds. Where evidence contradicts itself, both are taken to have
    happened and a denial of one is a denial: forged evidence hides none.
    """
    contested = given.initiator & CONTESTED != 0
    local_denied, peer_denied = local.verdict == _DENIED, peer.verdict == _DENIED
    one_denied = contested & (local_denied != peer_denied)
    decided = one_denied | (local.verdict == peer.verdict)
    by_peer = np.where(one_denied, peer_denied, given.likely_initiator == INITIATOR_PEER)
    picked = _where(by_peer, peer, local)
    port_known = decided & (one_denied | (given.initiator & INITIATOR_MASK != 0))
    in_doubt = ~decided & ((local.local_verdict == _DENIED) | (peer.local_verdict == _DENIED))
    found = _where(decided, picked, no_verdicts(len(decided)))
    # A doubt has the direction of what would be denied, even where the opener is unknown.
    opened = np.where(local.local_verdict == _DENIED, INITIATOR_ENDPOINT, INITIATOR_PEER)
    opened = np.where(in_doubt, opened, found.opened).astype(np.uint8)
    return found._replace(opened=opened, port_known=port_known, in_doubt=in_doubt)


def _where(
    condition: NDArray[np.bool_], ones: VerdictColumns, others: VerdictColumns
) -> VerdictColumns:
    return VerdictColumns._make(
        np.where(condition, getattr(ones, name), getattr(others, name))
        for name in VerdictColumns._fields
    )

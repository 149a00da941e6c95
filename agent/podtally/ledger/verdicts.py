# SPDX-License-Identifier: Apache-2.0
"""Judges connections by what is declared, as they are named: arrays of ends in, judgements out.

A connection is judged at our end, and at its other end too if that is an endpoint of this
host. Judgements are numbers, each once, so that accounts can be told apart by them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import Endpoint, Owner
from podtally.identity.name_table import WELL_KNOWN
from podtally.ledger.account import Judgement
from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
)
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.initiator import is_certain
from podtally.ledger.judge_input import JudgeInput
from podtally.ledger.label_sets import DIRECTIONS
from podtally.ledger.outcomes import NO_OUTCOME, Outcomes, combine_openings, is_missed, no_outcomes
from podtally.ledger.peer_columns import NO_OWNER
from podtally.policy.endpoints import of_endpoint, of_owner
from podtally.policy.explain.reasons import deciding_policies
from podtally.policy.load.candidates import has_candidates, with_candidates
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import ADDRESS, DENIED, UNIDENTIFIED, UNKNOWN, VERDICTS, PolicyEndpoint
from podtally.policy.vector.evaluator import (
    ADDRESS_INDEX,
    UNKNOWN_INDEX,
    Evaluator,
    PackedConnections,
    combine,
)
from podtally.policy.vector.reasons import ReasonBudget

NO_LONGER = "by policies or labels that have changed since"
UNSEEN_OPENER = "beginning"  # a cause: nobody saw who began it
FOREIGN_SENDER = "source"  # a cause: it was sent from an address that is not the endpoint's
UNSEEN = "who began it was not seen, and policies decide differently for the two ends"
FOREIGN_SOURCE = "sent from an address that is not this endpoint's"
_UNKNOWN, _DENIED = VERDICTS.index(UNKNOWN), VERDICTS.index(DENIED)
_NO_PARTY = {ADDRESS: ADDRESS_INDEX, UNIDENTIFIED: UNKNOWN_INDEX}
_WORK = 3000  # units for reasons in an epoch, twice: some 0.1 s each
_SPARE_PARTIES = 512  # of the past, before the judges begin anew

# What makes a judgement, as one number: the verdict, the side that tells more of it, who
# began it, whether it is exposed, whether the verdict of our end is missed; and the same of the
# candidates, where that is another.
_VERDICT_BITS, _SIDE_BITS = 3, 24
_VERDICT, _SIDE = (1 << _VERDICT_BITS) - 1, (1 << _SIDE_BITS) - 1
_BEGAN_SHIFT = _VERDICT_BITS + _SIDE_BITS
_EXPOSED_SHIFT = _BEGAN_SHIFT + 2
_MISSED_SHIFT = _EXPOSED_SHIFT + 1
_FOREIGN_SHIFT = _MISSED_SHIFT + 1
_CANDIDATE_SHIFT = _FOREIGN_SHIFT + 1
_CANDIDATE_SIDE_SHIFT = _CANDIDATE_SHIFT + _VERDICT_BITS


class ConnectionVerdicts(NamedTuple):
    """Of connections; index i of every array is the same one."""

    judgement: NDArray[np.int64]  # for ``Judging.judgements``
    verdict: NDArray[np.uint8]  # of both ends; places in VERDICTS
    own: NDArray[np.uint8]  # of our end alone
    here: NDArray[np.int32]  # our end's side; NO_SIDE
    there: NDArray[np.int32]  # the other end's; NO_SIDE
    opened: NDArray[np.uint8]  # BEGAN_*: the opening that was judged
    port_known: NDArray[np.bool_]  # whether the port of that opening is the server's

    def take(self, index: NDArray[np.int64]) -> "ConnectionVerdicts":
        return ConnectionVerdicts._make(column[index] for column in self)


class VerdictStage:
    """Keeps the parties of one table of names, and what is declared of them."""

    def __init__(self) -> None:
        self.version = 0  # grows when numbers of parties, sides or judgements mean others
        self.changes = 0  # grows when connections may be judged otherwise than before
        self.judgements: list[Judgement] = []
        self._judge = _judge()
        self._would: Evaluator | None = None  # with the candidates
        self._declared: DeclaredPolicies | None = None
        self._places: ClusterLabels | None = None
        self._owners: Sequence[Owner] = ()
        self._numbers: dict[PolicyEndpoint, int] = {}
        self._of_owner = np.zeros(0, np.int32)
        self._is_here = np.zeros(0, np.bool_)  # owners that are endpoints of this host
        self._is_outside = np.zeros(0, np.bool_)  # those that are outside the cluster
        self._known: dict[tuple[str, ...], int] = {}  # parties by who they are
        self._places_of: dict[Judgement, int] = {}
        self._found: dict[int, int] = {}  # judgements by what makes them
        self._of_events, self._of_ended = (ReasonBudget(_WORK, _WORK // 2) for _ in range(2))
        self._at_ns = 0  # of the epoch that these are for

    # -- what is known ----------------------------------------------------------------

    def learn(self, present: EpochContext) -> None:
        """Take in what has changed since the last time; without a change it costs nothing."""
        if present.now_ns != self._at_ns:
            self._at_ns = present.now_ns
            self._of_events.begin()
            self._of_ended.begin()
        if present.declared is not self._declared:
            self._declare(present.declared)
        names = present.names
        if names.owners is not self._owners or present.cluster_labels is not self._places:
            self._owners, self._places = names.owners, present.cluster_labels
            if len(self._numbers) > 2 * len(self._owners) + _SPARE_PARTIES:
                self._begin_anew()
            self._of_owner = self._of_owner[:0]
            self._is_here = self._is_outside = self._is_here[:0]
            self._forget()
        if len(self._owners) > len(self._of_owner):
            self._learn_owners(self._owners[len(self._of_owner) :])

    def number(self, endpoint: Endpoint) -> int:
        """The party of an endpoint of this host."""
        assert self._places is not None
        return self._numbers_of([of_endpoint(endpoint, self._places)])[0]

    def _declare(self, declared: DeclaredPolicies) -> None:
        self._declared = declared
        self._judge.set_policies(declared.policies)
        if has_candidates(declared):
            if self._would is None:
                self._would = _judge(self._numbers)
            self._would.set_policies(with_candidates(declared))
        else:
            self._would = None
        self._forget()
        self.changes += 1

    def _begin_anew(self) -> None:
        assert self._declared is not None
        self._numbers, self._known = {}, {}
        self._judge, self._would = _judge(), None
        self._declare(self._declared)

    def _forget(self) -> None:
        """Numbers of sides are a judge's own, until something changes."""
        self.version += 1
        self._found = {}
        self.judgements, self._places_of = [], {}

    def _learn_owners(self, fresh: Sequence[Owner]) -> None:
        assert self._places is not None
        parties = [of_owner(owner, self._places) for owner in fresh]
        numbers = self._numbers_of(parties)
        for owner, number in zip(fresh, numbers, strict=True):
            if number >= 0 and self._known.setdefault(_who(owner), number) != number:
                self._known[_who(owner)] = number  # its labels are others now
                self.changes += 1
        is_here = [owner.kind == "pod" and owner.scope == "node" for owner in fresh]
        self._of_owner = np.concatenate([self._of_owner, np.array(numbers, np.int32)])
        self._is_here = np.concatenate([self._is_here, np.array(is_here, np.bool_)])
        outside = [owner.kind == "external" and owner.name not in WELL_KNOWN for owner in fresh]
        self._is_outside = np.concatenate([self._is_outside, np.array(outside, np.bool_)])

    def _numbers_of(self, parties: Iterable[PolicyEndpoint]) -> list[int]:
        found, fresh = [], []
        for party in parties:
            number = _NO_PARTY.get(party.kind)
            if number is None:
                number = self._numbers.get(party)
            if number is None:
                number = self._numbers[party] = len(self._numbers)
                fresh.append(party)
            found.append(number)
        if fresh:
            self._judge.add_endpoints(fresh)
            if self._would is not None:
                self._would.add_endpoints(fresh)
        return found

    # -- verdicts ----------------------------------------------------------------------

    def judge(self, ends: JudgeInput) -> ConnectionVerdicts:
        sides = self._sides(self._judge, ends)
        denied = (sides.verdict == _DENIED) & (sides.own == _DENIED)
        unknown = sides.verdict == _UNKNOWN
        missed = unknown & (sides.own == _UNKNOWN) & ~ends.quiet & ~ends.foreign
        missed &= sides.in_doubt | (sides.here != NO_OUTCOME)
        tells = denied | unknown
        shows, opened = denied | missed, sides.opened
        key = sides.verdict | np.where(tells, sides.decisive() + 1, 0) << _VERDICT_BITS
        if self._would is not None:
            others = self._sides(self._would, ends)
            differs = (others.verdict != sides.verdict) & (others.own != sides.own)
            shows = shows | differs
            opened = np.where(opened == BEGAN_UNKNOWN, others.opened, opened)
            verdict = np.where(differs, others.verdict + 1, 0).astype(np.int64)
            side = np.where(differs & (others.own == _DENIED), others.here + 1, 0).astype(np.int64)
            key |= verdict << _CANDIDATE_SHIFT | side << _CANDIDATE_SIDE_SHIFT
        key |= np.where(shows, opened, 0).astype(np.int64) << _BEGAN_SHIFT
        key |= ends.exposed.astype(np.int64) << _EXPOSED_SHIFT
        key |= missed.astype(np.int64) << _MISSED_SHIFT
        key |= ends.foreign.astype(np.int64) << _FOREIGN_SHIFT
        different, place = distinct(key)
        numbers = [self._judgement(each) for each in different.tolist()]
        judgement = np.array(numbers, np.int64)[place]
        return ConnectionVerdicts(
            judgement,
            sides.verdict,
            sides.own,
            sides.here,
            sides.there,
            sides.opened,
            sides.port_known,
        )

    def missed(self, verdicts: ConnectionVerdicts) -> NDArray[np.bool_]:
        """Whether policies isolate our end, and yet its verdict is unknown. (n,)"""
        numbers, place = distinct(verdicts.judgement)
        missed = [self.judgements[number].missed for number in numbers.tolist()]
        return np.array(missed, np.bool_)[place]

    def _sides(self, judge: Evaluator, ends: JudgeInput) -> Outcomes:
        sides = self._sides_of_own(judge, ends)
        # What came from an address of others is denied for certain, or nothing is certain.
        doubted = ends.foreign & (sides.verdict != _DENIED)
        if doubted.any():
            sides.put(np.flatnonzero(doubted), no_outcomes(int(doubted.sum())))
        return sides

    def _sides_of_own(self, judge: Evaluator, ends: JudgeInput) -> Outcomes:
        certain = is_certain(ends.began)
        if certain.all():
            return self._of_openings(judge, ends)
        found = no_outcomes(len(ends.here))
        known, others = np.flatnonzero(certain), np.flatnonzero(~certain)
        found.put(known, self._of_openings(judge, ends.take(known)))
        found.put(others, self._of_either(judge, ends.take(others)))
        return found

    def _of_openings(self, judge: Evaluator, ends: JudgeInput) -> Outcomes:
        """Judge connections of which it is known who opened them."""
        n = len(ends.here)
        peer, is_egress = self._peers(ends.owner), ends.began == BEGAN_HERE
        ours = judge.judge(_asked(ends.here, peer, ends.address, ends, is_egress))
        verdict, there = ours.verdict.copy(), np.full(n, NO_OUTCOME, np.int32)
        both = np.flatnonzero(self._is_here[ends.owner] & (ends.owner != NO_OWNER) & (peer >= 0))
        if len(both):
            part = ends.take(both)
            asked = _asked(peer[both], part.here, part.here_address, part, ~is_egress[both])
            theirs = judge.judge(asked)
            there[both] = theirs.outcome
            verdict[both] = combine(ours.verdict[both], theirs.verdict)
        doubts = np.zeros(n, np.bool_)
        began = ends.began.copy()
        return Outcomes(verdict, ours.outcome, there, ours.verdict, began, ~doubts, doubts)

    def _of_either(self, judge: Evaluator, ends: JudgeInput) -> Outcomes:
        """Judge connections that either side may have opened."""
        here = self._of_openings(judge, ends.opened_by(BEGAN_HERE))
        there = self._of_openings(judge, ends.opened_by(BEGAN_THERE))
        return combine_openings(here, there, ends)

    def _peers(self, owner: NDArray[np.int64]) -> NDArray[np.int32]:
        return np.where(owner == NO_OWNER, UNKNOWN_INDEX, self._of_owner[owner]).astype(np.int32)

    def is_party(self, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether owners, NO_OWNER among them, are more than an address. (n,)"""
        is_party: NDArray[np.bool_] = self._peers(owner) >= 0
        return is_party

    def outside(self, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether owners, NO_OWNER among them, are outside the cluster. (n,)"""
        found: NDArray[np.bool_] = (owner != NO_OWNER) & self._is_outside[owner]
        return found

    def reasons(
        self, ends: JudgeInput, verdicts: ConnectionVerdicts, given: Sequence[str]
    ) -> list[str]:
        """In words, of connections that were ``given`` these verdicts when they were judged."""
        keys = np.stack(
            [
                ends.here.astype(np.uint64),
                ends.owner.astype(np.uint64),
                *ends.address.T,
                ends.port.astype(np.uint64) << np.uint64(8) | ends.protocol,
                ends.began.astype(np.uint64),
            ],
            axis=1,
        )
        _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        words = self._words(ends.take(first), verdicts.take(first), self._of_ended)
        return [
            words[at] if VERDICTS[code] == verdict else NO_LONGER
            for at, code, verdict in zip(
                place.ravel().tolist(), verdicts.verdict.tolist(), given, strict=True
            )
        ]

    def reason(self, ends: JudgeInput, index: int, verdicts: ConnectionVerdicts) -> str:
        """In words, of one connection and of our end: for what is reported of it."""
        row = np.array([index])
        ours = verdicts.take(row)._replace(there=np.full(1, NO_OUTCOME, np.int32))
        return self._words(ends.take(row), ours, self._of_events)[0]

    def _words(
        self, ends: JudgeInput, verdicts: ConnectionVerdicts, budget: ReasonBudget
    ) -> list[str]:
        """Of our end, and of the other end where that decides too. (n,)"""
        ends = ends.opened_as(verdicts.opened)
        peer, is_egress = self._peers(ends.owner), ends.began == BEGAN_HERE
        ours = _asked(ends.here, peer, ends.address, ends, is_egress)
        theirs = _asked(peer, ends.here, ends.here_address, ends, ~is_egress)
        words: list[list[str]] = [[] for _ in range(len(ends.here))]
        for side, asked in ((verdicts.here, ours), (verdicts.there, theirs)):
            decides = self._judge.verdicts(side) == verdicts.verdict
            rows = np.flatnonzero((side != NO_OUTCOME) & decides)
            some = PackedConnections._make(column[rows] for column in asked)
            found = self._judge.reasons(some, side[rows], budget)
            for row, text in zip(rows.tolist(), found, strict=True):
                words[row].append(text)
        for row in np.flatnonzero(verdicts.here == NO_OUTCOME).tolist():
            words[row] = [FOREIGN_SOURCE if ends.foreign[row] else UNSEEN]
        return ["; ".join(dict.fromkeys(each)) for each in words]

    # -- judgements --------------------------------------------------------------------

    def _judgement(self, key: int) -> int:
        number = self._found.get(key)
        if number is None:
            judgement = self._read(key)
            number = self._places_of.setdefault(judgement, len(self.judgements))
            if number == len(self.judgements):
                self.judgements.append(judgement)
            self._found[key] = number
        return number

    def _read(self, key: int) -> Judgement:
        verdict = VERDICTS[key & _VERDICT]
        side = (key >> _VERDICT_BITS & _SIDE) - 1
        began = key >> _BEGAN_SHIFT & 3
        candidate = (key >> _CANDIDATE_SHIFT & _VERDICT) - 1
        candidate_side = (key >> _CANDIDATE_SIDE_SHIFT) - 1
        policy = cause = candidate_policy = ""
        missed, foreign = bool(key >> _MISSED_SHIFT & 1), bool(key >> _FOREIGN_SHIFT & 1)
        if verdict == UNKNOWN:
            unseen = FOREIGN_SENDER if foreign else UNSEEN_OPENER
            cause = self._judge.outcome(side).cause if side != NO_OUTCOME else unseen
            missed = missed and (side == NO_OUTCOME or is_missed(self._judge.outcome(side)))
        elif side != NO_OUTCOME:
            policy = deciding_policies(self._judge.outcome(side))
        if candidate_side != NO_OUTCOME and self._would is not None:
            candidate_policy = deciding_policies(self._would.outcome(candidate_side))
        return Judgement(
            verdict,
            DIRECTIONS[began - 1] if began else "",
            policy,
            cause,
            bool(key >> _EXPOSED_SHIFT & 1),
            VERDICTS[candidate] if candidate >= 0 else "",
            candidate_policy,
            missed,
            foreign,
        )


def _judge(parties: Iterable[PolicyEndpoint] = ()) -> Evaluator:
    # What a pod sends to its own address stays within it: what is seen came through a Service.
    return Evaluator((), parties, by_service=True)


def _who(owner: Owner) -> tuple[str, ...]:
    """What stays the same of an owner when its labels change."""
    return (owner.uid,) if owner.uid else (owner.kind, owner.namespace, owner.name)


def _asked(
    local: NDArray[np.int32],
    peer: NDArray[np.int32],
    address: NDArray[np.uint64],
    ends: JudgeInput,
    is_egress: NDArray[np.bool_],
) -> PackedConnections:
    high, low = address[:, 0], address[:, 1]
    protocol, port = ends.protocol.astype(np.int32), ends.port.astype(np.int32)
    return PackedConnections(local, peer, high, low, protocol, port, is_egress)

# SPDX-License-Identifier: Apache-2.0
"""Judges all connections of an epoch at once, with the verdicts of the reference engine.

One endpoint's policies at a time: (endpoint, peer, protocol, port, direction). Known connections
come from the cache; the others are judged rule by rule in arrays, by classes of endpoints that no
policy distinguishes. A changed policy or endpoint invalidates the connections it affects.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.candidates import NameColumn
from podtally.dns.known_names import NO_NAMES
from podtally.policy.explain.reasons import short_reason
from podtally.policy.model import (
    ALLOWED,
    EGRESS,
    INGRESS,
    VERDICTS,
    DirectionVerdict,
    DomainPeer,
    Policy,
    PolicyEndpoint,
    Rule,
)
from podtally.policy.reference import engine
from podtally.policy.reference.matching import RuleInput
from podtally.policy.vector.cache import (
    ADDRESS_INDEX,
    MISSING,
    RESERVED_ROWS,
    UNKNOWN_INDEX,
    Keys,
    Numbers,
    PackedConnections,
    UnpackedKeys,
    VerdictCache,
    endpoint_rows,
    pack_keys,
    unique_rows,
    unpack_keys,
    with_names,
)
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.endpoints import EndpointTable, batch_of, is_own_node
from podtally.policy.vector.name_classes import NameClasses
from podtally.policy.vector.outcomes import OutcomeTable
from podtally.policy.vector.prepared_policies import PreparedPolicies
from podtally.policy.vector.reasons import NO_LIMIT, JudgedConnection, ReasonBudget, ReasonWriter
from podtally.policy.vector.rule_table import affected_by
from podtally.policy.vector.rules import CompiledPolicy, compile_policy
from podtally.policy.vector.tiers import OPEN, TierInput

__all__ = [
    "ADDRESS_INDEX",
    "UNKNOWN_INDEX",
    "Evaluated",
    "Evaluator",
    "PackedConnections",
    "combine",
]

_ROWS = 1 << 17  # in one batch, which bounds memory
_MIN_SIZE = 1 << 20  # classes times selectors; 0.1 to 0.2 MiB
_MAX_OUTCOMES = 1 << 16  # including those of former policies
_COMBINED = np.array(
    [[VERDICTS.index(engine.combine(one, other)) for other in VERDICTS] for one in VERDICTS],
    np.uint8,
)


class Evaluated(NamedTuple):
    verdict: NDArray[np.uint8]  # places in model.VERDICTS
    outcome: NDArray[np.int32]  # for ``Evaluator.outcome``, until policies are set again
    strict: NDArray[np.uint8]  # the verdict where DNS answers end with their TTL


class Evaluator:
    """Policies and endpoints, and the cached verdicts.

    ``by_service``: what a pod sends to itself goes through a Service, see ``model.Question``.
    """

    def __init__(
        self,
        policies: Iterable[Policy],
        endpoints: Iterable[PolicyEndpoint],
        by_service: bool = False,
    ) -> None:
        self._by_service = by_service
        self._classes, self._outcomes, self._cache = (
            EndpointClasses(),
            OutcomeTable(),
            VerdictCache(),
        )
        self._endpoints = EndpointTable(endpoints, self._classes)
        self._policies: list[CompiledPolicy] = []
        self._prepared: PreparedPolicies | None = None
        self._reasons = ReasonWriter(self._nearest)
        self._max_size = sys.maxsize  # of the classes, before they are rebuilt
        self.set_policies(policies)
        self._max_size = max(2 * self._classes.size, _MIN_SIZE)

    def judge(self, connections: PackedConnections) -> Evaluated:
        found = np.empty(len(connections.local), np.int32)
        strict = np.empty(len(found), np.uint8)
        for start in range(0, len(found), _ROWS):
            part = slice(start, start + _ROWS)
            some = PackedConnections._make(c[part] for c in connections)
            found[part], strict[part] = self._of_part(some)
        return Evaluated(self._outcomes.codes(found), found, strict)

    def _of_part(self, connections: PackedConnections) -> tuple[Numbers, NDArray[np.uint8]]:
        """Return the outcomes, and the strict verdicts."""
        if self._classes.names.is_full:
            self._set_names(self._classes.names.lists)
        words = pack_keys(connections)
        names = self._classes.names.of(connections.names, connections.is_egress)
        if names is None:
            found = self._look_up(words)
            return found, self._outcomes.codes(found)
        found = self._look_up(with_names(words, names.names))
        strict = self._outcomes.codes(found)
        differs = np.flatnonzero(names.names != names.valid)
        if len(differs):
            of_valid = self._look_up(with_names(words[differs], names.valid[differs]))
            strict[differs] = self._outcomes.codes(of_valid)
        return found, strict

    @property
    def cached(self) -> int:
        """Return the number of cached connections."""
        return len(self._cache.known())

    @property
    def classes(self) -> int:
        """Return the number of endpoint classes, including former ones."""
        return len(self._classes.endpoints)

    def outcome(self, number: int) -> DirectionVerdict:
        return self._outcomes[number]

    def verdicts(self, numbers: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Return the verdicts of outcome numbers, as positions in model.VERDICTS. (n,)"""
        return self._outcomes.codes(np.maximum(numbers, 0))

    def rule_input(self, connections: PackedConnections, index: int) -> RuleInput:
        """Return one connection, for the reference engine and ``reasons``."""
        row = PackedConnections._make(column[index : index + 1] for column in connections)
        return self._rule_input(unpack_keys(pack_keys(row)), 0, row.names)

    def reason(self, connections: PackedConnections, index: int, number: int) -> str:
        """Return the reason of one connection's outcome."""
        row = PackedConnections._make(column[index : index + 1] for column in connections)
        return self.reasons(row, np.array([number], np.int32))[0]

    def reasons(
        self,
        connections: PackedConnections,
        numbers: NDArray[np.int32],
        budget: ReasonBudget = NO_LIMIT,
    ) -> list[str]:
        """Return the reasons of connections' outcomes; short beyond the budget."""
        words = pack_keys(connections)
        classes = self._classes.names.of(connections.names, connections.is_egress)
        if classes is not None:
            words = with_names(words, classes.names)
        each = unpack_keys(words)
        found = []
        for row, number in enumerate(numbers.tolist()):
            word = words[row : row + 1]
            known = NO_NAMES if classes is None else connections.names.known(row)
            text = self._reasons.known(number, word.tobytes(), known)
            if text is None and budget.is_spent(int(each.local[row])):
                direction = EGRESS if each.is_egress[row] else INGRESS
                text = short_reason(self._outcomes[number], direction)
            if text is None:
                kinds = (int(self._endpoints.class_of[end[row]]) for end in (each.local, each.peer))
                given = JudgedConnection(
                    word,
                    self._rule_input(each, row, connections.names),
                    int(each.local[row]),
                    *kinds,
                )
                text = self._reasons.text(number, self._outcomes[number], given, budget)
            found.append(text)
        return found

    def _nearest(
        self, policies: tuple[Policy, ...], given: JudgedConnection
    ) -> tuple[list[tuple[Policy, Rule]], int]:
        is_egress = given.conn.direction == EGRESS
        batch = batch_of(given.word, is_egress, self._endpoints)
        return self._now().tiers(is_egress).nearest(policies, batch)

    def set_endpoint(self, number: int, endpoint: PolicyEndpoint) -> None:
        """Add or change an endpoint; its connections are judged again.

        ``number`` is that of an endpoint or the next free one, otherwise IndexError.
        """
        self.set_endpoints({number: endpoint})

    def add_endpoints(self, endpoints: Iterable[PolicyEndpoint]) -> int:
        """Add endpoints in order; return the number of the first."""
        first = len(self._endpoints)
        self.set_endpoints(dict(enumerate(endpoints, first)))
        return first

    def set_endpoints(self, endpoints: Mapping[int, PolicyEndpoint]) -> None:
        """Add or change many endpoints; new ones in the order of their numbers."""
        before = len(self._endpoints)
        known = (
            (number, endpoint) for number, endpoint in endpoints.items() if 0 <= number < before
        )
        changed = [number for number, endpoint in known if endpoint != self._endpoints[number]]
        if changed:
            self._forget_endpoints(changed)
            self._reasons.forget_texts()
        for number, endpoint in endpoints.items():
            self._endpoints.put(number, endpoint)
        self._drop_obsolete()

    def _forget_endpoints(self, numbers: Sequence[int]) -> None:
        """Forget connections of changed endpoints; new endpoints have none."""
        is_changed = np.zeros(len(self._endpoints) + RESERVED_ROWS, np.bool_)
        is_changed[np.array(numbers) + RESERVED_ROWS] = True
        slots = self._cache.known()
        local, peer = endpoint_rows(self._cache.words(slots))
        self._cache.forget(slots[is_changed[local] | is_changed[peer]])

    def set_policies(self, policies: Iterable[Policy]) -> None:
        """Set all policies; connections affected by changed ones are judged again."""
        known = {id(one.policy): one for one in self._policies}
        after = list(policies)
        gone = [known[number] for number in known.keys() - set(map(id, after))]
        equal = {one.policy: one for one in gone}
        unused = {id(one): one for one in gone}
        fresh: list[CompiledPolicy] = []
        for policy in after:
            if id(policy) in known:
                continue
            one = equal.pop(policy, None)
            if one is None:
                one = compile_policy(policy, self._classes)
                fresh.append(one)
            unused.pop(id(one), None)
            known[id(policy)] = one
        self._classes.forget_columns()
        self._policies = [known[id(policy)] for policy in after]
        lists = tuple(dict.fromkeys(peer for one in self._policies for peer in one.domains()))
        if set(lists) != set(self._classes.names.lists):
            self._set_names(lists)
        self._forget_affected([*unused.values(), *fresh])
        self._drop_obsolete()

    def _set_names(self, lists: Iterable[DomainPeer]) -> None:
        """Number the classes of names from zero, and forget connections, which have them."""
        self._classes.names = NameClasses(lists)
        self._cache.clear()
        self._prepared, self._reasons = None, ReasonWriter(self._nearest)

    def _forget_affected(self, policies: Sequence[CompiledPolicy]) -> None:
        self._prepared, self._reasons = None, ReasonWriter(self._nearest)
        if len(self._outcomes) > _MAX_OUTCOMES:
            self._outcomes = OutcomeTable()
            self._cache.clear()
        slots = self._cache.known()
        words = self._cache.words(slots)
        for one in policies:
            if not len(slots):
                break
            stale = affected_by(one, words, self._endpoints, self._classes)
            self._cache.forget(slots[stale])
            slots, words = slots[~stale], words[~stale]

    def _drop_obsolete(self) -> None:
        """Rebuild classes and selectors, which only grow, once most may be obsolete."""
        if self._classes.size <= self._max_size:
            return
        lists, self._classes = self._classes.names.lists, EndpointClasses()
        if lists:
            self._set_names(lists)
        self._endpoints = EndpointTable(self._endpoints.all(), self._classes)
        self._policies = [compile_policy(one.policy, self._classes) for one in self._policies]
        self._classes.forget_columns()
        self._max_size = max(2 * self._classes.size, _MIN_SIZE)
        self._prepared, self._reasons = None, ReasonWriter(self._nearest)

    def _look_up(self, words: Keys) -> Numbers:
        found = self._cache.find(words)
        missing = np.flatnonzero(found == MISSING)
        if len(missing):
            unique, inverse = unique_rows(words[missing])
            judged = self._judge(unique)
            self._cache.put(unique, judged)
            found[missing] = judged[inverse]
        return found

    def _now(self) -> PreparedPolicies:
        if self._prepared is None:
            self._prepared = PreparedPolicies(self._policies, self._classes, self._outcomes)
        return self._prepared

    def _judge(self, words: Keys) -> Numbers:
        prepared = self._now()
        each, identity = unpack_keys(words), self._endpoints.identity
        if max(each.local.max(), each.peer.max()) >= len(self._endpoints) + RESERVED_ROWS:
            raise IndexError(f"endpoint number out of range: there are {len(self._endpoints)}")
        found = prepared.exempt()[self._endpoints.class_of[each.local]]
        itself = (found == OPEN) & (identity[each.local] == identity[each.peer])
        spared = np.full(len(found), OPEN, np.int32)
        at_home = is_own_node(words, self._endpoints)
        spared[at_home] = self._outcomes.number(ALLOWED, engine.OWN_NODE)
        loopback = self._outcomes.number(ALLOWED, engine.LOOPBACK)
        is_seen = self._endpoints.is_pod[each.local] & self._by_service
        found[itself & ~is_seen] = spared[itself] = loopback
        for is_egress in (False, True):
            rows = np.flatnonzero((each.is_egress == is_egress) & (found == OPEN))
            if len(rows):
                batch = batch_of(words[rows], is_egress, self._endpoints)
                asked = TierInput(batch, spared[rows], not self._by_service)
                found[rows] = prepared.tiers(is_egress).judge(asked)
        return found

    def _rule_input(self, each: UnpackedKeys, row: int, names: NameColumn) -> RuleInput:
        local = self._endpoints[int(each.local[row]) - RESERVED_ROWS]
        peer = self._endpoints[int(each.peer[row]) - RESERVED_ROWS]
        is_egress = bool(each.is_egress[row])
        return RuleInput(
            EGRESS if is_egress else INGRESS,
            local,
            local.ips[0] if local.ips else 0,
            peer,
            int(each.high[row]) << 64 | int(each.low[row]),
            peer if is_egress else local,
            int(each.protocol[row]),
            int(each.port[row]),
            self._by_service,
            names.known(row) if is_egress else NO_NAMES,
        )


def combine(ingress: NDArray[np.uint8], egress: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Combine two directions' verdicts as the reference engine does; positions in VERDICTS."""
    found: NDArray[np.uint8] = _COMBINED[ingress, egress]
    return found

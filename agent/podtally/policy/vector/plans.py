# SPDX-License-Identifier: Apache-2.0
"""Which rules each class of parties has to be asked about, and who isolates it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from podtally.policy.model import BASELINE_TIER, NETWORK_TIER, POD, Policy
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.label_sets import NO, YES
from podtally.policy.vector.lists import Indices, RaggedLists
from podtally.policy.vector.rule_table import RuleTable
from podtally.policy.vector.rules import CompiledPolicy


class Plan(NamedTuple):
    """Of one class, in one direction."""

    tiers: tuple[Indices, Indices, Indices]  # entries, twice, and 1 more if the policy is certain
    told: tuple[Policy, ...] = ()  # NetworkPolicies that may be for it
    isolating: tuple[Policy, ...] = ()  # those of them that certainly are


class Plans:
    """Made when they are first asked for; ``policies`` are in ``engine.order``."""

    def __init__(
        self,
        policies: Sequence[CompiledPolicy],
        table: RuleTable,
        is_egress: bool,
        classes: EndpointClasses,
    ) -> None:
        self._policies, self._table, self._classes = policies, table, classes
        self._subjects = np.array([one.subject for one in policies], np.int64)
        saying = [place for place, one in enumerate(policies) if one.applies_in(is_egress)]
        tiers = [policies[place].policy.tier for place in saying]
        first, last = np.searchsorted(tiers, (NETWORK_TIER, BASELINE_TIER))
        self._before, self._after = saying[:first], saying[last:]
        self._bounds = np.searchsorted(
            [one.policy.tier for one in policies], (NETWORK_TIER, BASELINE_TIER)
        )
        self._network: dict[str, list[int]] = {}
        for place in saying[first:last]:
            self._network.setdefault(policies[place].policy.namespace, []).append(place)
        self._asked: dict[str, Indices] = {}  # by namespace: places of policies
        self._plans: dict[int, Plan] = {}
        self._alike: dict[bytes, Plan] = {}

    def of(self, number: int) -> Plan:
        if number not in self._plans:
            places = self._of_namespace(number)
            grades = self._classes.table.at(self._subjects[places], number)
            chosen = np.flatnonzero(grades != NO)
            places, certain = places[chosen], (grades[chosen] == YES).astype(np.int64)
            # Most classes differ in what no policy asks for.
            key = (places << 1 | certain).tobytes()
            if key not in self._alike:
                self._alike[key] = self._plan(places, certain)
            self._plans[number] = self._alike[key]
        return self._plans[number]

    def _of_namespace(self, number: int) -> Indices:
        party = self._classes.endpoints[number]
        namespace = party.namespace if party.kind == POD else ""
        if namespace not in self._network:
            namespace = _NO_NAMESPACE
        if namespace not in self._asked:
            own = self._network.get(namespace, [])
            self._asked[namespace] = np.array([*self._before, *own, *self._after], np.int64)
        return self._asked[namespace]

    def _plan(self, places: Indices, certain: Indices) -> Plan:
        first, last = np.searchsorted(places, self._bounds)
        told = [self._policies[place].policy for place in places[first:last]]
        sure = zip(told, certain[first:last], strict=True)
        return Plan(
            (
                self._codes(places[:first], certain[:first]),
                self._codes(places[first:last], certain[first:last]),
                self._codes(places[last:], certain[last:]),
            ),
            tuple(told),
            tuple(policy for policy, one in sure if one and not policy.unreadable),
        )

    def _codes(self, places: Indices, certain: Indices) -> Indices:
        entries: RaggedLists = self._table.of_policy.of(places)
        owner, entry = entries.members()
        return entry << 1 | certain[owner]


_NO_NAMESPACE = "/"  # as the name of one where no policies are

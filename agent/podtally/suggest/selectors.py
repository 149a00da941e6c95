# SPDX-License-Identifier: Apache-2.0
"""Finds the fewest labels that select the pods of a workload and no other workload's."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from podtally.policy.model import Requirement, Selector
from podtally.policy.reference.selectors import selects
from podtally.suggest.workloads import WorkloadName, Workloads

# Labels that usually name a workload, the most usual first (kubernetes.io, "Recommended Labels").
_PREFERRED = (
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "app.kubernetes.io/component",
    "component",
    "name",
    "app.kubernetes.io/instance",
)
_MAX_SIZE = 4
_MAX_CANDIDATES = 24  # requirements; more than any workload has labels worth trying


class WorkloadSelector(NamedTuple):
    selector: Selector
    workloads: tuple[WorkloadName, ...]  # that it selects, in order


class SelectorFinder:
    """Finds selectors within namespaces; each is searched for once."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads
        self._found: dict[WorkloadName, WorkloadSelector] = {}

    def of(self, name: WorkloadName) -> WorkloadSelector:
        """Return the fewest labels for a workload.

        If no labels tell it from another, they select both: a policy for one is for both.
        """
        found = self._found.get(name)
        if found is None:
            found = self._search(name)
            for each in found.workloads:
                self._found[each] = found
        return found

    def of_subject(self, name: WorkloadName) -> WorkloadSelector:
        """Return the workload's own selector, if it is known and selects its pods alone."""
        own = self._workloads.cluster.selectors.get(name)
        sets = self._workloads.label_sets(name)
        if own is None or not own.requirements or not sets:
            return self.of(name)
        exact = all(selects(own, labels) for labels in sets) and not any(
            selects(own, labels)
            for other in self._workloads.in_namespace(name.namespace)
            if other != name
            for labels in self._workloads.label_sets(other)
        )
        return WorkloadSelector(own, (name,)) if exact else self.of(name)

    def _search(self, name: WorkloadName) -> WorkloadSelector:
        alike = self._alike(name)
        others = [
            each for each in self._workloads.in_namespace(name.namespace) if each not in alike
        ]
        own = [labels for each in alike for labels in self._workloads.label_sets(each)]
        other = [labels for each in others for labels in self._workloads.label_sets(each)]
        candidates = _candidates(own, other)
        for size in range(1 if (own and any(own)) or other else 0, _MAX_SIZE + 1):
            for chosen in combinations(candidates, size):
                selector = Selector(tuple(sorted(chosen)))
                if not any(selects(selector, labels) for labels in other):
                    return WorkloadSelector(selector, alike)
        selector = Selector(tuple(sorted(candidates[:_MAX_SIZE])))
        matched = (
            each
            for each in others
            if any(selects(selector, labels) for labels in self._workloads.label_sets(each))
        )
        return WorkloadSelector(selector, tuple(sorted({*alike, *matched})))

    def _alike(self, name: WorkloadName) -> tuple[WorkloadName, ...]:
        """Return the workloads that no selector separates: one has labels of the other's."""
        group = {name}
        while True:
            sets = [labels for each in group for labels in self._workloads.label_sets(each)]
            common = _common(sets)
            more = {
                each
                for each in self._workloads.in_namespace(name.namespace)
                if each not in group
                and any(
                    _inseparable(labels, common, sets)
                    for labels in self._workloads.label_sets(each)
                )
            }
            if not more:
                return tuple(sorted(group))
            group |= more


def _inseparable(
    labels: tuple[tuple[str, str], ...],
    common: frozenset[tuple[str, str]],
    sets: list[tuple[tuple[str, str], ...]],
) -> bool:
    """Return whether a pod has all common labels, and no key that none of the sets has."""
    if not common <= frozenset(labels):
        return False
    keys = {key for each in sets for key, _ in each}
    return all(key in keys for key, _ in labels)


def _common(sets: Iterable[tuple[tuple[str, str], ...]]) -> frozenset[tuple[str, str]]:
    each = [frozenset(labels) for labels in sets]
    return frozenset.intersection(*each) if each else frozenset()


def _candidates(
    own: list[tuple[tuple[str, str], ...]], other: list[tuple[tuple[str, str], ...]]
) -> list[Requirement]:
    """Return requirements that all own label sets meet, the most usual first."""
    found = [Requirement(key, "In", frozenset((value,))) for key, value in _common(own)]
    keys = {key for labels in own for key, _ in labels}
    absent = {key for labels in other for key, _ in labels} - keys
    excluded = _excluded_by(found, other)
    found = [each for each in found if excluded[each]] or found[:1]
    found.sort(key=lambda each: (_rank(each.key), -excluded[each], each.key))
    found += [Requirement(key, "DoesNotExist") for key in sorted(absent)]
    return found[:_MAX_CANDIDATES]


def _excluded_by(
    found: list[Requirement], other: list[tuple[tuple[str, str], ...]]
) -> dict[Requirement, int]:
    return {each: sum(not selects(Selector((each,)), labels) for labels in other) for each in found}


def _rank(key: str) -> int:
    return _PREFERRED.index(key) if key in _PREFERRED else len(_PREFERRED)

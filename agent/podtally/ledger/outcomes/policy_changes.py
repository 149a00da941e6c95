# SPDX-License-Identifier: Apache-2.0
"""Remembers when policies changed: until a cluster enforces a change, connections prove nothing.

By namespace, as policies of a namespace select pods of that namespace only: changing one's own
policies all the time suspends the audit of no other namespace.
"""

from collections.abc import Iterable
from itertools import groupby

from podtally.policy.model import Policy

_PROPAGATION_NS = 10_000_000_000  # of a policy, from the API to the last node
_KEPT_NS = 180_000_000_000  # a connection may be decided that long after it began
_CLUSTER = ""  # in the place of a namespace: policies that may select any endpoint

ByNamespace = dict[str, tuple[Policy, ...]]


class PolicyChanges:
    """Namespaces with recently changed policies."""

    def __init__(self) -> None:
        self._policies: tuple[Policy, ...] | None = None
        self._by_namespace: ByNamespace = {}
        self._settled_ns: dict[str, int] = {}  # from when on a namespace's connections count

    def learn(self, policies: tuple[Policy, ...], now_ns: int) -> None:
        """Compare the policies in force with those of the epoch before."""
        self._settled_ns = {
            name: until for name, until in self._settled_ns.items() if until + _KEPT_NS > now_ns
        }
        if policies is self._policies:
            return
        before, self._by_namespace = self._by_namespace, _by_namespace(policies)
        if self._policies is not None:
            for name in before.keys() | self._by_namespace.keys():
                if before.get(name) != self._by_namespace.get(name):
                    self._settled_ns[name] = now_ns + _PROPAGATION_NS
        self._policies = policies

    def __bool__(self) -> bool:
        return bool(self._settled_ns)

    def settled_ns(self, namespace: str) -> int:
        """Return from when on connections of a namespace's endpoints count; 0: always."""
        found = self._settled_ns
        return max(found.get(namespace, 0), found.get(_CLUSTER, 0))


def _by_namespace(policies: Iterable[Policy]) -> ByNamespace:
    ordered = sorted(policies, key=lambda each: each.namespace)
    return {name: tuple(own) for name, own in groupby(ordered, lambda each: each.namespace)}

# SPDX-License-Identifier: Apache-2.0
"""Classes of endpoints that no policy distinguishes; selectors become sets of classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
from podtally.policy.model import (
    ADDRESS,
    EVERYTHING,
    POD,
    UNIDENTIFIED,
    HostSubject,
    NodePeer,
    PodPeer,
    PodSubject,
    PolicyEndpoint,
)
from podtally.policy.reference.matching import EndpointSelector, selector_matches
from podtally.policy.vector.name_classes import NameClasses
from podtally.policy.vector.selectors import (
    MAYBE,
    NO,
    LabelSets,
    Matches,
    MatchTable,
    SelectorIndex,
    match_of,
)

UNKNOWN_CLASS, ADDRESS_CLASS = 0, 1  # reserved: unidentified, address only


_ABSENT = -1


class _ClassColumns(NamedTuple):
    """Of all classes, for a selector to be tried on; index i is the class i."""

    pod_set: NDArray[np.int32]
    namespace_set: NDArray[np.int32]
    namespace: NDArray[np.int32]
    selectable: NDArray[np.bool_]


class _PodSlots(NamedTuple):
    """The slots of selectors over pods, for a class to be tried on; index i is the same one."""

    slots: NDArray[np.int64]
    namespaces: NDArray[np.int64]  # number of a selector, or _ABSENT - number of a namespace
    pods: NDArray[np.int64]


class EndpointClasses:
    """The classes, and the match of every selector with each; both only grow."""

    def __init__(self) -> None:
        self.endpoints: list[
            PolicyEndpoint
        ] = []  # one of each class, without name, addresses and node
        self.table = MatchTable()  # slots, classes
        self.names = NameClasses()
        self._numbers: dict[PolicyEndpoint, int] = {}
        self._pods, self._namespaces = LabelSets(), LabelSets()
        self._names: dict[str, int] = {}  # namespaces
        self._rows: list[tuple[int, int, int, bool]] = []  # of _Columns
        self._columns: _ClassColumns | None = None
        self._slots: dict[tuple[EndpointSelector, str], int] = {}
        self._pod_selectors, self._namespace_selectors = SelectorIndex(), SelectorIndex()
        self._pod_rows: list[tuple[int, int, int]] = []  # of _PodSlots
        self._pod_slots: _PodSlots | None = None
        self._others: list[tuple[int, EndpointSelector, str]] = []  # slots of other selectors
        self._named: dict[str, list[int]] = {}  # name of a port: keys, see port_key; sorted
        self._named_keys: dict[str, NDArray[np.int64]] = {}  # the same, as they were asked for
        self._without_ports: list[int] = [UNKNOWN_CLASS]  # their names are not known
        for kind in (UNIDENTIFIED, ADDRESS):
            self.number(PolicyEndpoint(kind))

    @property
    def size(self) -> int:
        """The number of matches kept."""
        return self.table.rows * self.table.columns

    def number(self, endpoint: PolicyEndpoint) -> int:
        """Return its class, by everything policies can select it by except addresses."""
        if endpoint.kind in (UNIDENTIFIED, ADDRESS):
            alike = PolicyEndpoint(endpoint.kind)
        else:
            alike = endpoint._replace(name="", ips=(), node="")
        number = self._numbers.setdefault(alike, len(self.endpoints))
        if number == len(self.endpoints):
            self._add(alike, number)
        return number

    def slot(self, selector: EndpointSelector, namespace: str) -> int:
        """Return the row of its matches; ``namespace`` is the policy's own."""
        number = self._slots.setdefault((selector, namespace), self.table.rows)
        if number == self.table.rows:
            self.table.add_row(self._of_all(selector, namespace))
            if isinstance(selector, PodPeer | PodSubject):
                if selector.namespaces is None:
                    within = _ABSENT - self._name(namespace)
                else:
                    within = self._namespace_selectors.number(selector.namespaces)
                self._pod_rows.append((number, within, self._pod_selectors.number(selector.pods)))
                self._pod_slots = None
            else:
                self._others.append((number, selector, namespace))
        return number

    def named(self, name: str) -> NDArray[np.int64]:
        """Return the keys of all ports of that name, sorted."""
        if name not in self._named_keys:
            self._named_keys[name] = np.array(self._named.get(name, ()), np.int64)
        return self._named_keys[name]

    def without_ports(self) -> NDArray[np.bool_]:
        """Return whether each class has unknown port names, (classes,)."""
        found = np.zeros(len(self.endpoints), np.bool_)
        found[self._without_ports] = True
        return found

    def forget_columns(self) -> None:
        """Free what only compiling needs; it is rebuilt on demand."""
        self._columns = None
        self._pods.forget_columns()
        self._namespaces.forget_columns()

    def _add(self, endpoint: PolicyEndpoint, number: int) -> None:
        self.endpoints.append(endpoint)
        self._columns = None
        selectable = is_selectable(endpoint)
        self._rows.append(
            (
                self._pods.add(endpoint.labels),
                self._namespaces.add(endpoint.namespace_labels, endpoint.namespace),
                self._name(endpoint.namespace),
                selectable,
            )
        )
        if selectable:
            self._add_ports(endpoint, number)
        self.table.add_column(self._of_one(endpoint))

    def _add_ports(self, endpoint: PolicyEndpoint, number: int) -> None:
        if endpoint.ports is None:
            self._without_ports.append(number)
        for port in sorted(endpoint.ports or ()):
            key = port_key(number, port.protocol, port.number)
            self._named.setdefault(port.name, []).append(key)
            self._named_keys.pop(port.name, None)

    def _of_one(self, endpoint: PolicyEndpoint) -> Matches:
        """Return the matches of a new class with every selector, (slots,)."""
        if endpoint.kind == UNIDENTIFIED:
            return np.full(self.table.rows, MAYBE, np.uint8)
        found = np.zeros(self.table.rows, np.uint8)
        for slot, selector, namespace in self._others:
            found[slot] = match_of(selector_matches(selector, namespace, endpoint))
        if is_selectable(endpoint) and self._pod_rows:
            slots, namespaces, pods = self._all_slots()
            spaces = self._namespace_selectors.matches(
                endpoint.namespace_labels, endpoint.namespace
            )
            by_name = (namespaces == _ABSENT - self._name(endpoint.namespace)) * np.uint8(2)
            by_labels = np.append(spaces, np.uint8(NO))[np.maximum(namespaces, 0)]
            within = np.where(namespaces < 0, by_name, by_labels)
            found[slots] = np.minimum(within, self._pod_selectors.matches(endpoint.labels)[pods])
        return found

    def _of_all(self, selector: EndpointSelector, namespace: str) -> Matches:
        """Return the matches of a new selector with every class, (classes,)."""
        found: Matches
        if isinstance(selector, NodePeer | HostSubject):
            matches = (_match_of(selector, namespace, endpoint) for endpoint in self.endpoints)
            return np.fromiter(matches, np.uint8, len(self.endpoints))
        columns = self._all()
        if selector.namespaces is None:
            within = columns.namespace == self._names.get(namespace, _ABSENT)
            found = within.astype(np.uint8) << 1
        else:
            found = self._namespaces.matches(selector.namespaces)[columns.namespace_set]
        if selector.pods != EVERYTHING:
            found = np.minimum(found, self._pods.matches(selector.pods)[columns.pod_set])
        found[~columns.selectable] = NO
        found[UNKNOWN_CLASS] = MAYBE
        return found

    def _name(self, namespace: str) -> int:
        return self._names.setdefault(namespace, len(self._names))

    def _all(self) -> _ClassColumns:
        if self._columns is None:
            pod_set, namespace_set, namespace, selectable = zip(*self._rows, strict=True)
            self._columns = _ClassColumns(
                np.array(pod_set, np.int32),
                np.array(namespace_set, np.int32),
                np.array(namespace, np.int32),
                np.array(selectable, np.bool_),
            )
        return self._columns

    def _all_slots(self) -> _PodSlots:
        if self._pod_slots is None:
            self._pod_slots = _PodSlots._make(np.array(self._pod_rows, np.int64).T)
        return self._pod_slots


def _match_of(selector: EndpointSelector, namespace: str, endpoint: PolicyEndpoint) -> int:
    """Match as the reference engine does."""
    return (
        MAYBE
        if endpoint.kind == UNIDENTIFIED
        else match_of(selector_matches(selector, namespace, endpoint))
    )


def is_selectable(endpoint: PolicyEndpoint) -> bool:
    return endpoint.kind == POD and not endpoint.host_network


PORT_KEY = PackedFields(number=39, protocol=8, port=16)


def port_key(number: int, protocol: int, port: int) -> int:
    """Pack class, protocol (8 bits) and port (16 bits) into one word."""
    return PORT_KEY.pack_one(number=number, protocol=protocol, port=port)

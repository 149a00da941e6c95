"""Parties that no policy can tell apart are one class; selectors become sets of classes.

What a selector says of a class is a grade (``compiled_labels``), kept as two bits, for those
in the thousands.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.policy.compiled_labels import NO, PERHAPS, YES, Grades, LabelSets
from podtally.policy.model import (
    ADDRESS,
    EVERYTHING,
    NOBODY_KNOWS,
    POD,
    HostSubject,
    NodePeer,
    Party,
)
from podtally.policy.rules import Labelled, means

UNKNOWN_CLASS, ADDRESS_CLASS = 0, 1  # of ends that are no party

_ABSENT = -1
_SPARE = 256  # classes, before the sets are made anew


class _Columns(NamedTuple):
    """Of all classes, for a selector to be tried on; index i is the class i."""

    pod_set: NDArray[np.int32]
    namespace_set: NDArray[np.int32]
    namespace: NDArray[np.int32]
    selectable: NDArray[np.bool_]


class Classes:
    """The classes, and what has been asked of all of them; both only grow."""

    def __init__(self) -> None:
        self.parties: list[Party] = []  # one of each class, without name, addresses and node
        self._numbers: dict[Party, int] = {}
        self._pods, self._namespaces = LabelSets(), LabelSets()
        self._names: dict[str, int] = {}  # namespaces
        self._rows: list[tuple[int, int, int, bool]] = []  # of _Columns
        self._columns: _Columns | None = None
        self._slots: dict[tuple[Labelled, str], int] = {}
        self._sure: list[NDArray[np.uint8]] = []  # a slot: a bit for each class
        self._possible: list[NDArray[np.uint8]] = []  # the same array where they are the same
        self._room = 0
        self._named: dict[str, list[int]] = {}  # name of a port: keys, see port_key
        for kind in (NOBODY_KNOWS, ADDRESS):
            self.number(Party(kind))

    @property
    def size(self) -> int:
        """Grades that are kept."""
        return len(self.parties) * len(self._sure)

    def number(self, party: Party) -> int:
        """Its class, by all that policies can see of it but for its addresses."""
        alike = party._replace(name="", ips=(), node="")
        number = self._numbers.setdefault(alike, len(self.parties))
        if number == len(self.parties):
            self._add(alike, number)
        return number

    def slot(self, meant: Labelled, namespace: str) -> int:
        """Where the grades of this are kept; ``namespace`` is the policy's own."""
        number = self._slots.setdefault((meant, namespace), len(self._sure))
        if number == len(self._sure):
            grades = self._grades(meant, namespace)
            sure = self._packed(grades == YES)
            self._sure.append(sure)
            some = bool((grades == PERHAPS).any())
            self._possible.append(self._packed(grades >= PERHAPS) if some else sure)
        return number

    def grades(self, slot: int) -> Grades:
        """(classes,)."""
        sure, possible = self._sure[slot], self._possible[slot]
        bits = np.unpackbits(sure, count=len(self.parties))
        if possible is sure:
            bits += bits
        else:
            bits += np.unpackbits(possible, count=len(self.parties))
        return bits

    def grade(self, slot: int, number: int) -> int:
        """Of one class."""
        byte, bit = number >> 3, 7 - (number & 7)
        sure, possible = self._sure[slot], self._possible[slot]
        return (int(sure[byte]) >> bit & 1) + (int(possible[byte]) >> bit & 1)

    def named(self, name: str) -> NDArray[np.int64]:
        """The keys of all ports of that name, sorted."""
        return np.array(sorted(self._named.get(name, ())), np.int64)

    def forget_columns(self) -> None:
        """After compiling; they are made again when there is more to compile."""
        self._columns = None
        self._pods.forget_columns()
        self._namespaces.forget_columns()

    def _add(self, party: Party, number: int) -> None:
        self.parties.append(party)
        self._columns = None
        self._rows.append(
            (
                self._pods.add(party.labels),
                self._namespaces.add(party.namespace_labels, party.namespace),
                self._names.setdefault(party.namespace, len(self._names)),
                is_selectable(party),
            )
        )
        if is_selectable(party):
            for port in party.ports or ():
                key = port_key(number, port.protocol, port.number)
                self._named.setdefault(port.name, []).append(key)
        if number >= self._room:
            self._grow(number)
        for (meant, namespace), slot in self._slots.items():
            self._set(slot, number, grade_of(meant, namespace, party))

    def _grow(self, number: int) -> None:
        room = number + number // 4 + _SPARE
        self._room = (room + 7) & ~7
        for slot, sure in enumerate(self._sure):
            same = self._possible[slot] is sure
            self._sure[slot] = self._longer(sure)
            self._possible[slot] = self._sure[slot] if same else self._longer(self._possible[slot])

    def _longer(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate((packed, np.zeros(self._room // 8 - len(packed), np.uint8)))

    def _packed(self, bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
        return self._longer(np.packbits(bits))

    def _set(self, slot: int, number: int, grade: int) -> None:
        byte, mask = number >> 3, 0x80 >> (number & 7)
        if grade == PERHAPS and self._possible[slot] is self._sure[slot]:
            self._possible[slot] = self._sure[slot].copy()
        if grade:
            self._possible[slot][byte] |= mask
        if grade == YES:
            self._sure[slot][byte] |= mask

    def _grades(self, meant: Labelled, namespace: str) -> Grades:
        found: Grades
        if isinstance(meant, NodePeer | HostSubject):
            grades = (grade_of(meant, namespace, party) for party in self.parties)
            return np.fromiter(grades, np.uint8, len(self.parties))
        columns = self._all()
        if meant.namespaces is None:
            within = columns.namespace == self._names.get(namespace, _ABSENT)
            found = within.astype(np.uint8) << 1
        else:
            found = self._namespaces.grades(meant.namespaces)[columns.namespace_set]
        if meant.pods != EVERYTHING:
            found = np.minimum(found, self._pods.grades(meant.pods)[columns.pod_set])
        found[~columns.selectable] = NO
        found[UNKNOWN_CLASS] = PERHAPS
        return found

    def _all(self) -> _Columns:
        if self._columns is None:
            pod_set, namespace_set, namespace, selectable = zip(*self._rows, strict=True)
            self._columns = _Columns(
                np.array(pod_set, np.int32),
                np.array(namespace_set, np.int32),
                np.array(namespace, np.int32),
                np.array(selectable, np.bool_),
            )
        return self._columns


def grade_of(meant: Labelled, namespace: str, party: Party) -> int:
    """As the plain engine has it."""
    if party.kind == NOBODY_KNOWS:
        return PERHAPS
    answer = means(meant, namespace, party)
    return PERHAPS if answer is None else YES if answer else NO


def is_selectable(party: Party) -> bool:
    return party.kind == POD and not party.host_network


def port_key(number: int, protocol: int, port: int) -> int:
    """A port of a class as one word; ports have 16 bits, protocols 8."""
    return number << 24 | protocol << 16 | port

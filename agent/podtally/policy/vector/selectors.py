# SPDX-License-Identifier: Apache-2.0
"""Label selectors against many label sets at once; the results as a bit table."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import NAMESPACE_NAME_LABEL, Requirement, Selector
from podtally.policy.reference.selectors import selects, selects_namespace
from podtally.policy.vector.ragged import Indices
from podtally.runtimes.model import Labels

Matches = NDArray[np.uint8]


NO, MAYBE, YES = 0, 1, 2


_ABSENT = -1


class LabelSets:
    def __init__(self) -> None:
        self._numbers: dict[tuple[Labels | None, str], int] = {}
        self._known: list[dict[str, str]] = []
        self._partial: list[int] = []  # of which not all labels are known
        self._columns: dict[str, tuple[NDArray[np.int32], dict[str, int]]] = {}

    def add(self, labels: Labels | None, namespace: str = "") -> int:
        """Return the number of a label set; labels None are unknown, a namespace name is known."""
        number = self._numbers.setdefault((labels, namespace), len(self._known))
        if number == len(self._known):
            known = dict(labels or ())
            if namespace:
                known[NAMESPACE_NAME_LABEL] = namespace
            self._known.append(known)
            if labels is None:
                self._partial.append(number)
            self._columns.clear()
        return number

    def matches(self, selector: Selector) -> Matches:
        found = np.full(len(self._known), YES, np.uint8)
        for requirement in selector.requirements:
            np.minimum(found, self._matches(requirement), out=found)
        return found

    def _matches(self, requirement: Requirement) -> Matches:
        key, operator, wanted = requirement
        codes, numbers = self._column(key)
        if operator in ("In", "NotIn"):
            among = [numbers[value] for value in wanted if value in numbers]
            holds = np.isin(codes, among) == (operator == "In")
        elif operator in ("Exists", "DoesNotExist"):
            holds = (codes != _ABSENT) == (operator == "Exists")
        else:
            raise ValueError(f"{operator!r} is no operator of a label selector")
        found = np.where(holds, np.uint8(YES), np.uint8(NO))
        partial = np.array(self._partial, np.int64)
        found[partial[codes[partial] == _ABSENT]] = MAYBE
        return found

    def _column(self, key: str) -> tuple[NDArray[np.int32], dict[str, int]]:
        if key not in self._columns:
            numbers: dict[str, int] = {}
            codes = [
                numbers.setdefault(known[key], len(numbers)) if key in known else _ABSENT
                for known in self._known
            ]
            self._columns[key] = (np.array(codes, np.int32), numbers)
        return self._columns[key]

    def forget_columns(self) -> None:
        self._columns.clear()


_SPARE = 256  # rows and columns, before both planes are rebuilt


class MatchTable:
    """One row per selector, one column per class; both are only added."""

    def __init__(self) -> None:
        self.rows, self.columns = 0, 0
        # A bit is set in ``sure`` for YES, in ``possible`` for PERHAPS and YES.
        self._sure = np.zeros((0, 0), np.uint8)
        self._possible = np.zeros((0, 0), np.uint8)

    def add_row(self, matches: Matches) -> None:
        """(columns,)"""
        self._make_room(self.rows + 1, self.columns)
        for plane, least in ((self._sure, YES), (self._possible, MAYBE)):
            bits = np.packbits(matches >= least)
            plane[self.rows, : len(bits)] = bits
        self.rows += 1

    def add_column(self, matches: Matches) -> None:
        """(rows,)"""
        self._make_room(self.rows, self.columns + 1)
        byte, bit = self.columns >> 3, np.uint8(0x80 >> (self.columns & 7))
        self._sure[: self.rows, byte] |= (matches == YES) * bit
        self._possible[: self.rows, byte] |= (matches >= MAYBE) * bit
        self.columns += 1

    def of_row(self, row: int) -> Matches:
        """(columns,)"""
        found = np.unpackbits(self._sure[row], count=self.columns)
        found += np.unpackbits(self._possible[row], count=self.columns)
        return found

    def at(self, rows: Indices, columns: Indices | int) -> Matches:
        """(n,); of each row in its column, or of all in one."""
        byte, bit = columns >> 3, np.uint8(7) - np.bitwise_and(columns, 7).astype(np.uint8)
        found: Matches = self._sure[rows, byte] >> bit & np.uint8(1)
        found += self._possible[rows, byte] >> bit & np.uint8(1)
        return found

    def _make_room(self, rows: int, columns: int) -> None:
        rooms, bytes_ = self._sure.shape
        if rows <= rooms and columns <= bytes_ << 3:
            return
        if rows > rooms:
            rooms = rows + rows // 4 + _SPARE
        if columns > bytes_ << 3:
            bytes_ = (columns + columns // 4 + _SPARE) >> 3
        self._sure = _larger(self._sure, rooms, bytes_)
        self._possible = _larger(self._possible, rooms, bytes_)


def _larger(plane: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    found = np.zeros((rows, columns), np.uint8)
    found[: plane.shape[0], : plane.shape[1]] = plane
    return found


class SelectorIndex:
    """Numbers selectors, indexed by the values of the first label that each requires."""

    def __init__(self) -> None:
        self._selectors: list[Selector] = []
        self._numbers: dict[Selector, int] = {}
        self._asking: dict[tuple[str, str], list[int]] = {}
        self._others: list[int] = []  # that ask for no label with a value

    def number(self, selector: Selector) -> int:
        number = self._numbers.setdefault(selector, len(self._selectors))
        if number == len(self._selectors):
            self._selectors.append(selector)
            for requirement in selector.requirements:
                if requirement.operator == "In":
                    for value in requirement.values:
                        self._asking.setdefault((requirement.key, value), []).append(number)
                    break
            else:
                self._others.append(number)
        return number

    def matches(self, labels: Labels | None, namespace: str | None = None) -> Matches:
        """(selectors,); with a namespace's name the labels are a namespace's."""
        found = np.zeros(len(self._selectors), np.uint8)
        for number in self._candidates(labels, namespace):
            selector = self._selectors[number]
            if namespace is not None:
                answer = selects_namespace(selector, namespace, labels)
            else:
                answer = selects(selector, labels)
            found[number] = match_of(answer)
        return found

    def _candidates(self, labels: Labels | None, namespace: str | None) -> chain[int]:
        if labels is None:
            return chain(range(len(self._selectors)))
        known = dict(labels)
        if namespace is not None:
            known[NAMESPACE_NAME_LABEL] = namespace
        return chain(self._others, *(self._asking.get(label, ()) for label in known.items()))


def match_of(answer: bool | None) -> int:
    return MAYBE if answer is None else YES if answer else NO


def max_of_lists(owner: Indices, matches: Matches, count: int) -> Matches:
    """Return the greatest match of each list, (count,); NO for an empty one."""
    found = np.zeros(count, np.uint8)
    for level in (MAYBE, YES):
        found[owner[matches == level]] = level
    return found

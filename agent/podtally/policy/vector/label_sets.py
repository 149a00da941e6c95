# SPDX-License-Identifier: Apache-2.0
"""Selectors tried on many sets of labels at once, each of which is there only once.

What a selector says of a set is a *grade*: 2 it selects it, 1 it may (something is not
known), 0 it does not; so that the least is "and", the greatest "or".
"""

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import NAMESPACE_NAME_LABEL, Requirement, Selector
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
        """Labels that are None are not known; a namespace's name always is."""
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
            np.minimum(found, self._grades(requirement), out=found)
        return found

    def _grades(self, requirement: Requirement) -> Matches:
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

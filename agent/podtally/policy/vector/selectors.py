# SPDX-License-Identifier: Apache-2.0
"""Selectors by a label that each of them asks for, to find those that fit a set of labels."""

from itertools import chain

import numpy as np

from podtally.policy.model import NAMESPACE_NAME_LABEL, Selector
from podtally.policy.reference.selectors import selects, selects_namespace
from podtally.policy.vector.label_sets import MAYBE, NO, YES, Matches
from podtally.runtimes.model import Labels


class SelectorIndex:
    """Numbers selectors; each stands under every value of the first label that it asks for."""

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

# SPDX-License-Identifier: Apache-2.0
"""Sides of verdicts by number, each once, so that arrays can hold them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import PASS, VERDICTS, DirectionVerdict, Policy, Rule

_WORDS = (*VERDICTS, PASS)  # in the order of their codes
_KEY = tuple[str, str, tuple[int, ...], int]


class OutcomeTable:
    """Grows only; a number means the same side for as long as this lives."""

    def __init__(self) -> None:
        self._sides: list[DirectionVerdict] = []
        self._numbers: dict[_KEY, int] = {}
        self._codes = np.zeros(1024, np.uint8)

    def __len__(self) -> int:
        return len(self._sides)

    def __getitem__(self, number: int) -> DirectionVerdict:
        return self._sides[number]

    def number(
        self, verdict: str, cause: str, policies: Sequence[Policy] = (), rule: Rule | None = None
    ) -> int:
        # By identity, which the side keeps alive: to hash policies would take much longer.
        key = (verdict, cause, tuple(map(id, policies)), id(rule))
        number = self._numbers.setdefault(key, len(self._sides))
        if number == len(self._sides):
            self._sides.append(DirectionVerdict(verdict, cause, tuple(policies), rule))
            if number == len(self._codes):
                self._codes = np.concatenate((self._codes, np.zeros_like(self._codes)))
            self._codes[number] = _WORDS.index(verdict)
        return number

    def of(self, side: DirectionVerdict) -> int:
        return self.number(*side)

    def codes(self, numbers: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Their verdicts, as places in ``model.VERDICTS``."""
        return self._codes[numbers]


def code(verdict: str) -> int:
    return _WORDS.index(verdict)


PASS_CODE = code(PASS)

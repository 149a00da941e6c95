# SPDX-License-Identifier: Apache-2.0
"""What is logged of problems in policies: each once, while it is there; and when it is fixed."""

import logging
from collections.abc import Sequence

from podtally.policy.load.api_resources import SOURCE
from podtally.policy.problems import ERROR, Problem

log = logging.getLogger(__name__)

MAX_LINES = 20  # at a time


class ProblemLog:
    def __init__(self) -> None:
        self._told: frozenset[Problem] = frozenset()

    def tell(self, problems: Sequence[Problem]) -> None:
        """Log what is new among all problems that there are now."""
        now = dict.fromkeys(problem._replace(line=0) for problem in problems)
        new = [problem for problem in problems if problem._replace(line=0) not in self._told]
        for problem in new[:MAX_LINES]:
            level = logging.ERROR if problem.severity == ERROR else logging.WARNING
            log.log(level, "in the policies: %s", problem)
        if len(new) > MAX_LINES:
            log.warning("in the policies: and %d more problems", len(new) - MAX_LINES)
        still = set(map(_place, now))
        fixed = sorted({_place(problem) for problem in self._told} - still)
        for place in fixed[:MAX_LINES]:
            log.info("in the policies: %s has no problem any more", place)
        if len(fixed) > MAX_LINES:
            log.info("in the policies: and %d more have none", len(fixed) - MAX_LINES)
        self._told = frozenset(now)


def _place(problem: Problem) -> str:
    """The file; or the object, where it is in none."""
    if problem.source and problem.source != SOURCE:
        return problem.source
    return ": ".join(filter(None, (problem.source, problem.subject)))

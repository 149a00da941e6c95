# SPDX-License-Identifier: Apache-2.0
"""Logs each problem in policies once, and when it is fixed."""

import logging
from collections.abc import Sequence

from podtally.policy.load.api_resources import SOURCE
from podtally.policy.problems import ERROR, Problem

log = logging.getLogger(__name__)

MAX_LINES = 20  # at a time


class ProblemLog:
    def __init__(self) -> None:
        self._logged: frozenset[Problem] = frozenset()

    def update(self, problems: Sequence[Problem]) -> None:
        """Log the new ones among the current problems, and those that are fixed."""
        now = dict.fromkeys(problem._replace(line=0) for problem in problems)
        new = [problem for problem in problems if problem._replace(line=0) not in self._logged]
        for problem in new[:MAX_LINES]:
            level = logging.ERROR if problem.severity == ERROR else logging.WARNING
            log.log(level, "policies: %s", problem)
        if len(new) > MAX_LINES:
            log.warning("policies: and %d more problems", len(new) - MAX_LINES)
        open_ = set(map(_place, now))
        fixed = sorted({_place(problem) for problem in self._logged} - open_)
        for place in fixed[:MAX_LINES]:
            log.info("policies: %s is fixed", place)
        if len(fixed) > MAX_LINES:
            log.info("policies: and %d more are fixed", len(fixed) - MAX_LINES)
        self._logged = frozenset(now)


def _place(problem: Problem) -> str:
    """Return the file; or the object, if it is in none."""
    if problem.source and problem.source != SOURCE:
        return problem.source
    return ": ".join(filter(None, (problem.source, problem.subject)))

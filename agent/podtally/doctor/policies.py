# SPDX-License-Identifier: Apache-2.0
"""Probes of the policies in files: read once, as the agent would; nothing of it is fatal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from podtally.config import Config
from podtally.doctor.finding import DoctorFinding
from podtally.errors import PodtallyError
from podtally.kube.api_access import api_access
from podtally.policy.load.parser import PolicyObject
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.problems import ERROR

_FILES = "policies"
_CANDIDATES = "candidates"
_PROBLEMS_TOLD = 5


def policies(config: Config) -> Iterator[DoctorFinding]:
    if config.policies:
        yield from _files(_FILES, config.policies)
    elif not _asks_api(config):
        yield DoctorFinding(_FILES, None, "none: no --policies, no API; all is undeclared")
    if config.candidates:
        yield from _files(_CANDIDATES, config.candidates)


def _asks_api(config: Config) -> bool:
    try:
        return api_access(config) is not None
    except PodtallyError:  # `names` tells of it
        return True


def _files(name: str, paths: Sequence[Path]) -> Iterator[DoctorFinding]:
    is_candidate = name == _CANDIDATES
    reading = PolicyFiles(paths, is_candidate).load().parsed
    where = ", ".join(map(str, paths))
    # An Ingress judges nothing, so it cannot be a candidate.
    told: list[PolicyObject] = [*reading.policies, *(() if is_candidate else reading.ingresses)]
    count = sum(not each.unreadable for each in told)
    if count:
        yield DoctorFinding(name, True, f"{count} in {where}")
    elif not told:
        yield DoctorFinding(name, None, f"none in {where}")
    errors = [str(problem) for problem in reading.problems if problem.severity == ERROR]
    fix = f"fix it; podtally check {paths[0]}" if len(paths) == 1 else "fix it"
    for error in errors[:_PROBLEMS_TOLD]:
        yield DoctorFinding(name, False, error, fix)
    if len(errors) > _PROBLEMS_TOLD:
        more = len(errors) - _PROBLEMS_TOLD
        yield DoctorFinding(name, False, f"and {more} more", "podtally check tells them all")

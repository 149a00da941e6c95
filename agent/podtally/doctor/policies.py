# SPDX-License-Identifier: Apache-2.0
"""Probes of policies in files, read as the agent would; none is fatal."""

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
_MAX_PROBLEMS = 5


def policies(config: Config) -> Iterator[DoctorFinding]:
    if config.policies:
        yield from _files(_FILES, config.policies)
    elif not _uses_api(config):
        yield DoctorFinding(
            _FILES, None, "none: no --policies and no API, so every connection is undeclared"
        )
    if config.candidates:
        yield from _files(_CANDIDATES, config.candidates)


def _uses_api(config: Config) -> bool:
    try:
        return api_access(config) is not None
    except PodtallyError:  # `names` reports it
        return True


def _files(name: str, paths: Sequence[Path]) -> Iterator[DoctorFinding]:
    is_candidate = name == _CANDIDATES
    loaded = PolicyFiles(paths, is_candidate).load().parsed
    where = ", ".join(map(str, paths))
    # An Ingress has no verdict, so it cannot be a candidate.
    found: list[PolicyObject] = [*loaded.policies, *(() if is_candidate else loaded.ingresses)]
    count = sum(not each.unreadable for each in found)
    if count:
        yield DoctorFinding(name, True, f"{count} in {where}")
    elif not found:
        yield DoctorFinding(name, None, f"none in {where}")
    errors = [str(problem) for problem in loaded.problems if problem.severity == ERROR]
    fix = f"fix it: podtally check {paths[0]}" if len(paths) == 1 else "fix it: podtally check"
    for error in errors[:_MAX_PROBLEMS]:
        yield DoctorFinding(name, False, error, fix)
    if len(errors) > _MAX_PROBLEMS:
        more = len(errors) - _MAX_PROBLEMS
        yield DoctorFinding(name, False, f"and {more} more", "podtally check lists all")

# SPDX-License-Identifier: Apache-2.0
"""Reads policies and cluster from files, directories or standard input.

``live_cluster`` lists them from an API; both end in the same types.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from podtally.dns.known_names import NAMES_OFF
from podtally.errors import PodtallyError
from podtally.policy.cases import case_files, case_names
from podtally.policy.cases.case_names import WrittenNames
from podtally.policy.cluster import manifests
from podtally.policy.cluster.model import ClusterModel
from podtally.policy.lint.findings import DeclaredDocuments
from podtally.policy.load import documents
from podtally.policy.load.documents import MAX_BYTES, Document, ParsedText
from podtally.policy.load.parser import ParsedPolicies, merged, read_documents
from podtally.policy.load.policy_files import SUFFIXES
from podtally.policy.load.stand_ins import lost_text_stand_ins
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, Problem, field_of

STDIN = "-"


class PolicyText(NamedTuple):
    """Policies as declared, with what is wrong in them."""

    place: str  # where they were read, for a summary: "files: 2"
    declared: tuple[DeclaredDocuments, ...]  # duplicates included
    policies: tuple[Policy, ...]  # in force, with stand-ins for unreadable ones
    others: tuple[Document, ...]  # of unsupported kinds
    problems: tuple[Problem, ...]
    lost: bool  # some text holds no object, though it may have been meant to


def read_policies(paths: Iterable[str]) -> PolicyText:
    """Read files, and the files of directories; PodtallyError."""
    found = _PathReader()
    names = tuple(dict.fromkeys(name for path in paths for name in _files(path)))
    blank = bool(names)
    for name in names:
        text = documents.read_text(read_file(name), _shown(name))
        found.miss(text)
        found.take(text.documents)
        blank = blank and text.blank
    if blank:
        shown = ", ".join(map(_shown, names[:3])) + (", ..." if len(names) > 3 else "")
        raise PodtallyError(f"{shown}: empty, no objects to check", "give policies in YAML or JSON")
    return found.written(f"files: {len(names)}")


def declared_in(given: Iterable[Document], place: str) -> PolicyText:
    """Return what the documents declare; ``place`` is where they were read."""
    found = _PathReader()
    found.take(given)
    return found.written(place)


class _PathReader:
    """Collects what is read."""

    def __init__(self) -> None:
        self._declared: list[DeclaredDocuments] = []
        self._lost: list[Policy] = []
        self._others: list[Document] = []
        self._problems: list[Problem] = []

    def take(self, given: Iterable[Document]) -> None:
        for document in given:
            one = read_documents([document])
            self._declared += [DeclaredDocuments(policy, document) for policy in one.policies]
            self._others += one.others
            self._problems += one.problems

    def miss(self, text: ParsedText) -> None:
        """Add a text's problems, and stand-ins for its lost parts."""
        self._problems += text.problems
        self._lost += [
            policy for each in text.lost for policy in lost_text_stand_ins(each, candidate=False)
        ]

    def written(self, place: str) -> PolicyText:
        declared = tuple(self._declared)
        in_force = merged([ParsedPolicies(tuple(each.policy for each in declared))]).policies
        policies = (*in_force, *self._lost)
        others, problems = tuple(self._others), tuple(self._problems)
        return PolicyText(place, declared, policies, others, problems, bool(self._lost))


def read_cluster(names: Iterable[str]) -> ClusterModel:
    """Read the cluster from manifests, or from an object like a test case; PodtallyError."""
    written: list[Document] = []
    problems: list[Problem] = []
    whole = list(names)
    for name in whole:
        content = read_file(name)
        text = documents.read_text(content, _shown(name))
        errors = [problem for problem in text.problems if problem.severity == ERROR]
        if text.problems and not text.documents and len(whole) == 1:
            return _world_of_case(content, name, text.problems)
        written += text.documents
        problems += errors
    world = cluster_of(written, problems)
    if not world.members:
        raise PodtallyError(
            f"{', '.join(whole)}: no pods", "give the output of kubectl get pods -o yaml"
        )
    return world


def cluster_of(given: Iterable[Document], problems: Sequence[Problem] = ()) -> ClusterModel:
    """Return the cluster of the documents; PodtallyError if there are problems."""
    found = manifests.from_documents(given)
    _refuse((*problems, *found.problems))
    return found.model


def read_names(name: str | None) -> WrittenNames:
    """Read DNS answers: a list, or an object with ``names`` as a test case; PodtallyError."""
    if name is None:
        return WrittenNames((), NAMES_OFF)
    value = case_files.parse_text(read_file(name), name)
    whole = {"names": value} if isinstance(value, list) else value
    given = whole.get("names") if isinstance(whole, dict) else None
    if not isinstance(given, list):
        raise PodtallyError(f"{name}: no names", "give a list of pod, name and ips")
    found, faults = case_names.read_names(given, whole.get("names_complete") is not False)
    _refuse(Problem(name, 0, "", field_of(fault.path), fault.message) for fault in faults)
    return found


def read_file(name: str) -> bytes:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, error) from None


def print_errors(problems: Iterable[Problem]) -> None:
    """Write the errors to standard error, each once."""
    for line in dict.fromkeys(str(p) for p in problems if p.severity == ERROR):
        print(f"podtally: {line}", file=sys.stderr)


def _files(path: str) -> Iterator[str]:
    """Yield the file, or the files of the directory that are policies by their suffix."""
    if not os.path.isdir(path):
        yield path
        return
    found = False

    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error)

    for directory, directories, names in os.walk(path, onerror=refuse):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                found = True
                yield os.path.join(directory, name)
    if not found:
        raise PodtallyError(
            f"{path}: no {', '.join(SUFFIXES)} in the directory", "give another one"
        )


def _world_of_case(content: bytes, name: str, errors: Sequence[Problem]) -> ClusterModel:
    value = case_files.parse_text(content, name)
    if not isinstance(value, dict) or not isinstance(value.get("pods"), list):
        _refuse(errors)
    found = manifests.from_case(value, name, "")
    _refuse(found.problems)
    return found.model


def _refuse(problems: Iterable[Problem]) -> None:
    wrong = [str(problem) for problem in problems]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise PodtallyError("; ".join(wrong[:3]) + more)


def _unreadable(name: str, error: OSError) -> PodtallyError:
    return PodtallyError(f"{name}: {error.strerror}", "check the path and its permissions")


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name

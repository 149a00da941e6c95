"""Reads the policies and the cluster that a command is told of: files, folders, standard input."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from podtally.errors import PodtallyError
from podtally.policy import cases, cluster, documents
from podtally.policy.documents import MAX_BYTES, Document
from podtally.policy.findings import Declared
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, Problem
from podtally.policy.reading import Reading, merged, read_documents
from podtally.policy.sources import SUFFIXES
from podtally.policy.unreadable import all_unreadable
from podtally.policy.world import World

STDIN = "-"


class Written(NamedTuple):
    """What stands in the files."""

    files: int
    declared: tuple[Declared, ...]  # each as often as it is there
    policies: tuple[Policy, ...]  # in force, with those that stand for what cannot be read
    others: tuple[Document, ...]  # of kinds that are not read
    problems: tuple[Problem, ...]
    lost: bool  # there is text of which not even the kind can be told


def read_policies(paths: Iterable[str]) -> Written:
    """PodtallyError if there is no such file, or none in a folder."""
    declared: list[Declared] = []
    lost: list[Policy] = []
    others: list[Document] = []
    problems: list[Problem] = []
    names = tuple(dict.fromkeys(name for path in paths for name in _files(path)))
    for name in names:
        text = documents.read_text(read_file(name), _shown(name))
        problems += text.problems
        for problem in text.problems:
            lost += all_unreadable(problem, candidate=False) if problem.severity == ERROR else ()
        for document in text.documents:
            one = read_documents([document])
            declared += [Declared(policy, document) for policy in one.policies]
            others += one.others
            problems += one.problems
    in_force = merged([Reading(tuple(each.policy for each in declared))]).policies
    policies = (*in_force, *lost)
    whole = (tuple(declared), policies, tuple(others), tuple(problems), bool(lost))
    return Written(len(names), *whole)


def read_world(names: Iterable[str]) -> World:
    """Of manifests, or of an object like a case of tests; PodtallyError with all that is wrong."""
    written: list[Document] = []
    problems: list[Problem] = []
    whole = list(names)
    for name in whole:
        content = read_file(name)
        text = documents.read_text(content, _shown(name))
        errors = [problem for problem in text.problems if problem.severity == ERROR]
        if errors and not text.documents and len(whole) == 1:
            return _world_of_case(content, name, errors)
        written += text.documents
        problems += errors
    found = cluster.from_documents(written)
    _refuse((*problems, *found.problems))
    if not found.world.members:
        raise PodtallyError(
            f"{', '.join(whole)}: no pods", "give what kubectl get pods -o yaml tells"
        )
    return found.world


def read_file(name: str) -> bytes:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, error) from None


def tell(problems: Iterable[Problem]) -> None:
    """Write the errors, each once, for people."""
    for line in dict.fromkeys(str(p) for p in problems if p.severity == ERROR):
        print(f"podtally: {line}", file=sys.stderr)


def _files(path: str) -> Iterator[str]:
    """The file, or those of the folder as ``sources`` chooses them."""
    if not os.path.isdir(path):
        yield path
        return
    found = False

    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error)

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                found = True
                yield os.path.join(folder, name)
    if not found:
        raise PodtallyError(f"{path}: no {', '.join(SUFFIXES)} in the folder", "name another")


def _world_of_case(content: bytes, name: str, errors: list[Problem]) -> World:
    value = cases.parsed(content, name)
    if not isinstance(value, dict) or not isinstance(value.get("pods"), list):
        _refuse(errors)
    found = cluster.from_case(value, name, "")
    _refuse(found.problems)
    return found.world


def _refuse(problems: Iterable[Problem]) -> None:
    wrong = [str(problem) for problem in problems]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise PodtallyError("; ".join(wrong[:3]) + more)


def _unreadable(name: str, error: OSError) -> PodtallyError:
    return PodtallyError(f"{name}: {error.strerror}", "check the path and its rights")


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name

# SPDX-License-Identifier: Apache-2.0
"""What is declared at this moment, by files and by the Kubernetes API: what the agent asks.

An object that is in a file counts before its namesake in the API. Belongs to the main thread;
files are read in a thread of ``reader``'s.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from podtally.kube.model import ApiEvent
from podtally.policy.endpoints import NON_POD_NAMESPACES, no_pods_in
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load.api_resources import SOURCE
from podtally.policy.load.file_reader import LoadedSets, PolicyReader
from podtally.policy.load.live_policies import LivePolicies, LiveSnapshot
from podtally.policy.load.parser import PolicyObject
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.problem_log import ProblemLog
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, WARNING, Problem

_NO_API = LiveSnapshot((), (), (), (), ingresses_known=True)

M = TypeVar("M", Policy, DeclaredIngress)

_Key = tuple[str, str, str]  # kind, namespace, name


class DeclaredPolicies(NamedTuple):
    policies: tuple[Policy, ...]  # in force; with stand-ins for what is not known yet
    candidates: tuple[Policy, ...]  # not applied yet: marked so
    ingresses: tuple[DeclaredIngress, ...]
    ingresses_known: bool = True  # False: the API has not told of all yet
    unsynced: bool = False  # the API has not told of all policies yet: stand-ins are among them
    deleted: tuple[_Key, ...] = ()  # candidates too: as if these were not there
    stale_candidates: tuple[str, ...] = ()  # files that are tried in an earlier version


class PolicyState(NamedTuple):
    """How the sources are, for the agent's own metrics."""

    counts: Mapping[str, int]  # readable objects in force, by kind
    unreadable: int  # objects, and texts; those of the API also if an earlier version is in force
    stale_files: int  # that are in force in an earlier version
    candidates: int  # readable ones
    errors: int  # problems of that severity, in all sources
    unsynced: tuple[str, ...]  # resources of the API that were never listed to the end


class PolicySources:
    def __init__(
        self,
        files: PolicyFiles | None = None,
        candidates: PolicyFiles | None = None,
        live: LivePolicies | None = None,
        deleted: Sequence[_Key] = (),
    ) -> None:
        self._deleted = tuple(deleted)
        self._reader = PolicyReader(files, candidates)
        self._live = live
        self._log = ProblemLog()
        self._read, self._said = self._reader.read, _NO_API  # of which the next are made
        self._declared, self._problems = self._put_together(self._read, self._said)
        self.latest = self._declared  # as the last epoch asked for it: for any thread

    def start(self) -> None:
        """Returns when all files have been read once."""
        self._reader.start()

    def stop(self) -> None:
        self._reader.stop()

    @property
    def alive(self) -> bool:
        """Whether files are read again as they change; True where there are none."""
        return self._reader.alive

    @property
    def trouble(self) -> str:
        """What is wrong with the thread that reads files; "" if nothing is."""
        return self._reader.trouble

    def reload(self) -> None:
        """Look at the files now, not within a second. May be called by any thread."""
        self._reader.reload()

    def heard(self, event: ApiEvent) -> None:
        """Take in what the API told; events of other resources are let pass."""
        if self._live is not None:
            self._live.apply(event)

    def declared(self) -> DeclaredPolicies:
        """The same object until something of it changes."""
        read, live = self._reader.read, self._live.now() if self._live else _NO_API
        if read is not self._read or live is not self._said:
            self._read, self._said = read, live
            declared, self._problems = self._put_together(read, live)
            if declared != self._declared:
                self._declared = self.latest = declared
            self._log.tell(self._problems)
        return self._declared

    def state(self) -> PolicyState:
        policies, candidates, ingresses, *_ = self.declared()
        told: list[PolicyObject] = [*policies, *candidates, *ingresses]
        stand_ins = {policy.unreadable for policy in self._said.stand_ins}
        unreadable = {meaning.unreadable for meaning in told if meaning.unreadable} - stand_ins
        in_force: list[PolicyObject] = [*policies, *ingresses]
        return PolicyState(
            MappingProxyType(Counter(_kind_of(m) for m in in_force if not m.unreadable)),
            len(unreadable) + self._said.stale,
            len(self._read.files.stale) + len(self._read.candidates.stale),
            sum(not policy.unreadable for policy in candidates) + len(self._deleted),
            sum(problem.severity == ERROR for problem in self._problems),
            self._live.unsynced() if self._live else (),
        )

    def _put_together(
        self, read: LoadedSets, live: LiveSnapshot
    ) -> tuple[DeclaredPolicies, tuple[Problem, ...]]:
        files, candidates = read.files.parsed, read.candidates.parsed
        of_files: list[PolicyObject] = [*files.policies, *files.ingresses]
        of_api: list[PolicyObject] = [*live.policies, *live.ingresses]
        in_files = {_key_of(meaning) for meaning in of_files}
        twice = [meaning for meaning in of_api if _key_of(meaning) in in_files]
        problems = (
            *files.problems,
            *candidates.problems,
            *live.problems,
            *map(_also_in_a_file, twice),
            *map(_no_candidate, candidates.ingresses),
            *map(
                _selects_nothing, filter(_is_without_pods, (*files.policies, *candidates.policies))
            ),
        )
        declared = DeclaredPolicies(
            (*files.policies, *_without(live.policies, in_files), *live.stand_ins),
            candidates.policies,
            (*_published(files.ingresses, live), *_without(live.ingresses, in_files)),
            live.ingresses_known,
            bool(live.stand_ins),
            self._deleted,
            read.candidates.stale,
        )
        return declared, problems


def _published(
    ingresses: Iterable[DeclaredIngress], live: LiveSnapshot
) -> Iterator[DeclaredIngress]:
    """With the addresses that lead to them, which a controller tells the API only."""
    addresses = {_key_of(ingress): ingress.addresses for ingress in live.ingresses}
    for ingress in ingresses:
        yield ingress._replace(addresses=ingress.addresses or addresses.get(_key_of(ingress), ()))


def _without(meanings: Iterable[M], keys: Set[_Key]) -> list[M]:
    return [meaning for meaning in meanings if _key_of(meaning) not in keys]


def _kind_of(meaning: PolicyObject) -> str:
    return meaning.kind if isinstance(meaning, Policy) else "Ingress"


def _key_of(meaning: PolicyObject) -> _Key:
    return _kind_of(meaning), meaning.namespace, meaning.name


def _also_in_a_file(meaning: PolicyObject) -> Problem:
    message = "is in a file too, which counts; remove one"
    return Problem(SOURCE, 0, _subject(meaning), "", message, WARNING)


def _is_without_pods(policy: Policy) -> bool:
    """Whether it is in a namespace that podtally gives to endpoints that are no pods."""
    return policy.kind == "NetworkPolicy" and policy.namespace in NON_POD_NAMESPACES


def _selects_nothing(policy: Policy) -> Problem:
    return Problem("", 0, _subject(policy), "", no_pods_in(policy.namespace), WARNING)


def _no_candidate(declared: DeclaredIngress) -> Problem:
    message = "judges nothing, so it cannot be a candidate; it is left out"
    return Problem("", 0, _subject(declared), "", message, WARNING)


def _subject(meaning: PolicyObject) -> str:
    kind, namespace, name = _key_of(meaning)
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

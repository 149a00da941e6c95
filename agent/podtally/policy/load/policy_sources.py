# SPDX-License-Identifier: Apache-2.0
"""The policies in force, from files and from the Kubernetes API.

An object in a file overrides the one of the same name in the API. Main thread only; files are
read in the thread of ``file_reader``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from podtally.kube.model import ApiEvent
from podtally.policy.endpoints import NON_POD_NAMESPACES, no_pods_in
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load.api_resources import SOURCE, ApiPolicyObject
from podtally.policy.load.file_reader import LoadedSets, PolicyReader
from podtally.policy.load.live_policies import LivePolicies, LiveSnapshot
from podtally.policy.load.parser import ParsedPolicies, PolicyObject
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.problem_log import ProblemLog
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, WARNING, Problem

_NO_API = LiveSnapshot((), (), (), (), ingresses_known=True)

T = TypeVar("T", Policy, DeclaredIngress)

_Key = tuple[str, str, str]  # kind, namespace, name


class DeclaredPolicies(NamedTuple):
    policies: tuple[Policy, ...]  # in force; with stand-ins for resources not yet synced
    candidates: tuple[Policy, ...]  # dry run
    ingresses: tuple[DeclaredIngress, ...]
    ingresses_known: bool = True  # False: not yet synced from the API
    unsynced: bool = False  # some policies are not yet synced: stand-ins are among them
    deleted: tuple[_Key, ...] = ()  # dry run: as if these were deleted
    stale_candidates: tuple[str, ...] = ()  # candidate files in use in an earlier version


class PoliciesInForce(NamedTuple):
    """What a later start of the agent may need: good objects by file and by API resource."""

    files: Mapping[str, ParsedPolicies] = {}
    stale: tuple[str, ...] = ()  # of these files, the ones in force in an earlier version
    resources: Mapping[str, tuple[ApiPolicyObject, ...]] = {}


class PolicyState(NamedTuple):
    """The state of the sources, for the agent's own metrics."""

    counts: Mapping[str, int]  # readable objects in force, by kind
    unreadable: int  # objects and texts; from the API also those with an earlier version in force
    stale_files: int  # in force in an earlier version
    candidates: int  # readable ones
    errors: int  # problems of severity error, in all sources
    unsynced: tuple[str, ...]  # API resources not yet listed completely
    kept: tuple[str, ...] = ()  # of these, the ones in force as an earlier agent kept them


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
        self._read, self._snapshot = self._reader.read, _NO_API  # of which the next are made
        self._declared, self._problems = self._combine(self._read, self._snapshot)
        self.latest = self._declared  # as of the last epoch; for any thread
        self.in_force = PoliciesInForce()  # likewise: the same object until something changes

    def start(self) -> None:
        """Start; return when all files have been read once."""
        self._reader.start()

    def stop(self) -> None:
        self._reader.stop()

    @property
    def alive(self) -> bool:
        """Return whether changed files are reloaded; True if there are none."""
        return self._reader.alive

    @property
    def trouble(self) -> str:
        """The failure of the thread that reads files; "" if none."""
        return self._reader.trouble

    def reload(self) -> None:
        """Check the files now, not within a second. Any thread may call it."""
        self._reader.reload()

    def use_kept(self) -> None:
        """Have policies in force that an earlier agent kept, of API resources not yet synced."""
        if self._live is not None:
            self._live.use_kept()

    @property
    def kept(self) -> tuple[str, ...]:
        """API resources that are in force as an earlier agent kept them."""
        return self._snapshot.kept

    @property
    def stale_files(self) -> tuple[str, ...]:
        """Files that are in force in an earlier version."""
        return self._read.files.stale

    def apply(self, event: ApiEvent) -> None:
        """Apply an event of the API; those of other resources are ignored."""
        if self._live is not None:
            self._live.apply(event)

    def declared(self) -> DeclaredPolicies:
        """Return the policies in force: the same object until something changes."""
        read, live = self._reader.read, self._live.now() if self._live else _NO_API
        if read is not self._read or live is not self._snapshot:
            self._read, self._snapshot = read, live
            declared, self._problems = self._combine(read, live)
            if declared != self._declared:
                self._declared = self.latest = declared
            self._log.update(self._problems)
            self.in_force = PoliciesInForce(read.files.by_file, read.files.stale, live.good)
        return self._declared

    def state(self) -> PolicyState:
        policies, candidates, ingresses, *_ = self.declared()
        objects: list[PolicyObject] = [*policies, *candidates, *ingresses]
        stand_ins = {policy.unreadable for policy in self._snapshot.stand_ins}
        unreadable = {each.unreadable for each in objects if each.unreadable} - stand_ins
        in_force: list[PolicyObject] = [*policies, *ingresses]
        return PolicyState(
            MappingProxyType(Counter(_kind_of(m) for m in in_force if not m.unreadable)),
            len(unreadable) + self._snapshot.stale,
            len(self._read.files.stale) + len(self._read.candidates.stale),
            sum(not policy.unreadable for policy in candidates) + len(self._deleted),
            sum(problem.severity == ERROR for problem in self._problems),
            self._live.unsynced() if self._live else (),
            self._snapshot.kept,
        )

    def _combine(
        self, read: LoadedSets, live: LiveSnapshot
    ) -> tuple[DeclaredPolicies, tuple[Problem, ...]]:
        files, candidates = read.files.parsed, read.candidates.parsed
        of_files: list[PolicyObject] = [*files.policies, *files.ingresses]
        of_api: list[PolicyObject] = [*live.policies, *live.ingresses]
        in_files = {_key_of(each) for each in of_files}
        overridden = [each for each in of_api if _key_of(each) in in_files]
        problems = (
            *files.problems,
            *candidates.problems,
            *live.problems,
            *map(_also_in_a_file, overridden),
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
    """Yield Ingresses of files with their addresses, which a controller publishes in the API."""
    addresses = {_key_of(ingress): ingress.addresses for ingress in live.ingresses}
    for ingress in ingresses:
        yield ingress._replace(addresses=ingress.addresses or addresses.get(_key_of(ingress), ()))


def _without(objects: Iterable[T], keys: Set[_Key]) -> list[T]:
    return [each for each in objects if _key_of(each) not in keys]


def _kind_of(each: PolicyObject) -> str:
    return each.kind if isinstance(each, Policy) else "Ingress"


def _key_of(each: PolicyObject) -> _Key:
    return _kind_of(each), each.namespace, each.name


def _also_in_a_file(each: PolicyObject) -> Problem:
    message = "is also in a file, which overrides it; remove one"
    return Problem(SOURCE, 0, _subject(each), "", message, WARNING)


def _is_without_pods(policy: Policy) -> bool:
    """Return whether it is in a namespace that podtally uses for endpoints that are not pods."""
    return policy.kind == "NetworkPolicy" and policy.namespace in NON_POD_NAMESPACES


def _selects_nothing(policy: Policy) -> Problem:
    return Problem("", 0, _subject(policy), "", no_pods_in(policy.namespace), WARNING)


def _no_candidate(declared: DeclaredIngress) -> Problem:
    message = "is ignored: an Ingress judges no traffic, so it cannot be a candidate"
    return Problem("", 0, _subject(declared), "", message, WARNING)


def _subject(each: PolicyObject) -> str:
    kind, namespace, name = _key_of(each)
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

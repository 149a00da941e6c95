"""Documents into policies: which kinds are read, and what becomes of what cannot be.

An object of which nobody can tell what it means becomes an unreadable policy for whom it may be
for, so that they are judged ``unknown``: nothing fails open. Kinds that are not read are passed
on.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from podtally.errors import PodtallyError
from podtally.policy import (
    decoding,
    documents,
    meaning,
    meaning_admin,
    validation_admin,
    wire,
    wire_admin,
)
from podtally.policy import validation as checks
from podtally.policy.documents import Document, Lines
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, WARNING, Fault, Problem, field_of
from podtally.policy.unreadable import all_unreadable, unreadable
from podtally.policy.validation_ingress import ingress as check_ingress

_NETWORKING = "networking.k8s.io/v1"
_OLDER = "policy.networking.k8s.io/v1alpha1"
_NEWER = "policy.networking.k8s.io/v1alpha2"
_OWN = "podtally.io/v1alpha1"
_GROUPS = frozenset({"networking.k8s.io", "policy.networking.k8s.io", "podtally.io"})
_ONCE_GROUPS = frozenset({"", "extensions"})  # where our kinds are, or were looked for
_NO_POLICIES = frozenset({"IngressClass", "IPAddress", "ServiceCIDR"})  # in these groups

Meaning = Policy | DeclaredIngress


class _Kind(NamedTuple):
    """How a kind is read: its shape, its rules, and its meaning (and whether a candidate's)."""

    api_version: str
    shape: Any
    nulls: Callable[[Any], Any]
    check: Callable[[Any], Iterable[Fault]]
    mean: Callable[[Any, bool], Meaning]


_KINDS = {
    "NetworkPolicy": _Kind(
        _NETWORKING,
        wire.NetworkPolicy,
        decoding.built_in_nulls,
        checks.network_policy,
        meaning.network_policy,
    ),
    "Ingress": _Kind(
        _NETWORKING,
        wire.Ingress,
        decoding.built_in_nulls,
        check_ingress,
        lambda given, candidate: meaning.ingress(given),
    ),
    "HostPolicy": _Kind(
        _OWN,
        wire.HostPolicy,
        decoding.built_in_nulls,
        checks.host_policy,
        meaning.host_policy,
    ),
    "AdminNetworkPolicy": _Kind(
        _OLDER,
        wire_admin.AdminNetworkPolicy,
        decoding.custom_nulls,
        validation_admin.admin_network_policy,
        meaning_admin.admin_network_policy,
    ),
    "BaselineAdminNetworkPolicy": _Kind(
        _OLDER,
        wire_admin.BaselineAdminNetworkPolicy,
        decoding.custom_nulls,
        validation_admin.baseline_admin_network_policy,
        meaning_admin.baseline_admin_network_policy,
    ),
    "ClusterNetworkPolicy": _Kind(
        _NEWER,
        wire_admin.ClusterNetworkPolicy,
        decoding.custom_nulls,
        validation_admin.cluster_network_policy,
        meaning_admin.cluster_network_policy,
    ),
}


class Reading(NamedTuple):
    """All that was read; problems are in the order of the documents."""

    policies: tuple[Policy, ...] = ()
    ingresses: tuple[DeclaredIngress, ...] = ()
    others: tuple[Document, ...] = ()  # of kinds that are not read here
    problems: tuple[Problem, ...] = ()


class _One(NamedTuple):
    """What one document came to."""

    meaning: Meaning | None
    faults: list[Fault]


def read_text(text: str | bytes, source: str, candidate: bool = False) -> Reading:
    """``source`` names the text in problems; ``candidate`` marks policies not applied yet."""
    found = documents.read_text(text, source)
    reading = read_documents(found.documents, candidate)
    lost = tuple(
        stand_in
        for problem in found.problems
        if problem.severity == ERROR
        for stand_in in all_unreadable(problem, candidate)
    )
    return reading._replace(
        policies=reading.policies + lost, problems=found.problems + reading.problems
    )


def read_documents(given: Iterable[Document], candidate: bool = False) -> Reading:
    policies: list[Policy] = []
    ingresses: list[DeclaredIngress] = []
    others: list[Document] = []
    problems: list[Problem] = []
    for document in given:
        if not _is_read(document):
            others.append(document)
            continue
        one = _read(document, candidate)
        problems += [problem_of(document, fault) for fault in one.faults]
        if isinstance(one.meaning, Policy):
            policies.append(one.meaning)
        elif one.meaning is not None:
            ingresses.append(one.meaning)
    return Reading(tuple(policies), tuple(ingresses), tuple(others), tuple(problems))


def read_object(content: dict[str, Any], where: str = "object") -> Meaning | None:
    """One object that is there as values; None if it is of a kind that is not read.

    PodtallyError with what is wrong if the API server would refuse it and it cannot be told what
    it was to mean. What that cannot be told of, but the server takes, is an unreadable policy.
    """
    document = _document(content, where)
    if not _is_read(document):
        return None
    one = _read(document, candidate=False)
    if any(fault.lost and fault.severity == ERROR for fault in one.faults):
        wrong = [str(problem_of(document, fault)) for fault in one.faults[:10]]
        raise PodtallyError("; ".join(wrong), "mend it as the API server would have it")
    return one.meaning


def accepts(content: dict[str, Any]) -> bool:
    """Whether the API server would take the object (one of a kind that is not read here: yes)."""
    try:
        document = _document(content, "object")
    except PodtallyError:
        return False
    if not _is_read(document):
        return True
    return all(fault.severity != ERROR for fault in _read(document, candidate=False).faults)


def merged(readings: Iterable[Reading]) -> Reading:
    """As one; of two objects of one name the later counts, as when both are applied."""
    policies: dict[tuple[str, str, str, bool], Policy] = {}
    ingresses: dict[tuple[str, str], DeclaredIngress] = {}
    unreadable_ones: list[Policy] = []
    others: list[Document] = []
    problems: list[Problem] = []
    for reading in readings:
        problems += reading.problems
        others += reading.others
        for policy in reading.policies:
            key = (policy.kind, policy.namespace, policy.name, policy.candidate)
            if policy.unreadable:
                unreadable_ones.append(policy)
                continue
            if key in policies:
                problems.append(_twice(policy.kind, policy.namespace, policy.name))
            policies[key] = policy
        for declared in reading.ingresses:
            if (declared.namespace, declared.name) in ingresses:
                problems.append(_twice("Ingress", declared.namespace, declared.name))
            ingresses[declared.namespace, declared.name] = declared
    found = (*policies.values(), *unreadable_ones)
    return Reading(found, tuple(ingresses.values()), tuple(others), tuple(problems))


def problem_of(document: Document, fault: Fault) -> Problem:
    line = document.lines.at(fault.path)
    subject, field = document.subject(), field_of(fault.path)
    return Problem(document.source, line, subject, field, fault.message, fault.severity)


def _document(content: dict[str, Any], where: str) -> Document:
    api_version, kind = content.get("apiVersion"), content.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise PodtallyError(f"{where}: no object of Kubernetes", "give it apiVersion and kind")
    return Document(where, api_version, kind, content, Lines(None))


def _is_read(document: Document) -> bool:
    """Other groups have kinds of these names too (projectcalico.org has a NetworkPolicy)."""
    group = document.api_version.rpartition("/")[0]
    if group in _GROUPS:
        return document.kind not in _NO_POLICIES  # a name with a slip in it is an error
    return group in _ONCE_GROUPS and document.kind in _KINDS


def _read(document: Document, candidate: bool) -> _One:
    kind = _KINDS.get(document.kind)
    if kind is None:
        faults = [Fault(("kind",), f"is none that is read; there are {', '.join(_KINDS)}")]
    elif document.api_version != kind.api_version:
        faults = [Fault(("apiVersion",), f"is not read for this kind; use {kind.api_version}")]
    else:
        decoded, faults = _decode(document, kind)
        if not any(fault.lost for fault in faults):
            return _One(kind.mean(decoded, candidate), faults)
    if document.kind == "Ingress":
        return _One(None, faults)
    worst = next(fault for fault in faults if fault.lost)
    return _One(unreadable(document, problem_of(document, worst), candidate), faults)


def _decode(document: Document, kind: _Kind) -> tuple[Any, list[Fault]]:
    try:
        content = kind.nulls(document.content)
    except RecursionError:
        return None, [Fault((), "nested too deep; flatten it")]
    decoded = decoding.convert(content, kind.shape)
    if isinstance(decoded, Fault):
        return None, [decoded]
    return decoded, list(kind.check(decoded))


def _twice(kind: str, namespace: str, name: str) -> Problem:
    subject = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    return Problem("", 0, subject, "", "is declared twice; the later one counts", WARNING)

# SPDX-License-Identifier: Apache-2.0
"""Documents into policies: which kinds are read, and what becomes of what cannot be.

An object of which nobody can tell what it means becomes an unreadable policy for whom it may be
for, so that they are judged ``unknown``: nothing fails open. Kinds that are not read are passed
on.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from podtally.errors import PodtallyError
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load import admin_conversion, conversion, documents
from podtally.policy.load.documents import Document, LineMap
from podtally.policy.load.stand_ins import ingress_stand_in, lost_text_stand_ins, stand_in
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, WARNING, Fault, Problem, field_of
from podtally.policy.schema import admin, decoding, kinds, network
from podtally.policy.validate import admin_checks
from podtally.policy.validate import network_checks as checks
from podtally.policy.validate.ingress_checks import ingress as check_ingress
from podtally.yamltree.scalars import brief
from podtally.yamltree.suggestion import similar

PolicyObject = Policy | DeclaredIngress


class _PolicyKind(NamedTuple):
    """How a kind is read: its shape, its rules, and its meaning (and whether a candidate's)."""

    shape: Any
    nulls: Callable[[Any], Any]
    check: Callable[[Any], Iterable[Fault]]
    mean: Callable[[Any, bool], PolicyObject]


_KINDS = {
    "NetworkPolicy": _PolicyKind(
        network.NetworkPolicy,
        decoding.built_in_nulls,
        checks.network_policy,
        conversion.network_policy,
    ),
    "Ingress": _PolicyKind(
        network.Ingress,
        decoding.built_in_nulls,
        check_ingress,
        lambda given, candidate: conversion.ingress(given),
    ),
    "HostPolicy": _PolicyKind(
        network.HostPolicy,
        decoding.built_in_nulls,
        checks.host_policy,
        conversion.host_policy,
    ),
    "AdminNetworkPolicy": _PolicyKind(
        admin.AdminNetworkPolicy,
        decoding.custom_nulls,
        admin_checks.admin_network_policy,
        admin_conversion.admin_network_policy,
    ),
    "BaselineAdminNetworkPolicy": _PolicyKind(
        admin.BaselineAdminNetworkPolicy,
        decoding.custom_nulls,
        admin_checks.baseline_admin_network_policy,
        admin_conversion.baseline_admin_network_policy,
    ),
    "ClusterNetworkPolicy": _PolicyKind(
        admin.ClusterNetworkPolicy,
        decoding.custom_nulls,
        admin_checks.cluster_network_policy,
        admin_conversion.cluster_network_policy,
    ),
}


class ParsedPolicies(NamedTuple):
    """All that was read; problems are in the order of the documents."""

    policies: tuple[Policy, ...] = ()
    ingresses: tuple[DeclaredIngress, ...] = ()
    others: tuple[Document, ...] = ()  # of kinds that are not read here
    problems: tuple[Problem, ...] = ()
    lost: tuple[Problem, ...] = ()  # those of texts, or parts of them, that hold no object


class _ParsedDocument(NamedTuple):
    """What one document came to."""

    policy_object: PolicyObject | None
    faults: list[Fault]


def read_text(text: str | bytes, source: str, candidate: bool = False) -> ParsedPolicies:
    """``source`` names the text in problems; ``candidate`` marks policies not applied yet."""
    found = documents.read_text(text, source)
    reading = read_documents(found.documents, candidate)
    policies = tuple(
        policy for text in found.lost for policy in lost_text_stand_ins(text, candidate)
    )
    return reading._replace(
        policies=reading.policies + policies,
        problems=found.problems + reading.problems,
        lost=tuple(text.problem for text in found.lost),
    )


def read_documents(given: Iterable[Document], candidate: bool = False) -> ParsedPolicies:
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
        if isinstance(one.policy_object, Policy):
            policies.append(one.policy_object)
        elif one.policy_object is not None:
            ingresses.append(one.policy_object)
    return ParsedPolicies(tuple(policies), tuple(ingresses), tuple(others), tuple(problems))


def read_object(content: dict[str, Any], where: str = "object") -> PolicyObject | None:
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
        raise PodtallyError("; ".join(wrong), "fix it as the API server would have it")
    return one.policy_object


def accepts(content: dict[str, Any]) -> bool:
    """Whether the API server would take the object (one of a kind that is not read here: yes)."""
    try:
        document = _document(content, "object")
    except PodtallyError:
        return False
    if not _is_read(document):
        return True
    return all(fault.severity != ERROR for fault in _read(document, candidate=False).faults)


def merged(readings: Iterable[ParsedPolicies]) -> ParsedPolicies:
    """As one; of two objects of one name the later counts, as when both are applied."""
    policies: dict[tuple[str, str, str, bool], Policy] = {}
    ingresses: dict[tuple[str, str], DeclaredIngress] = {}
    unreadable_ones: list[Policy] = []
    others: list[Document] = []
    problems: list[Problem] = []
    texts: list[Problem] = []
    for reading in readings:
        problems += reading.problems
        others += reading.others
        texts += reading.lost
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
    all_ingresses = tuple(ingresses.values())
    return ParsedPolicies(found, all_ingresses, tuple(others), tuple(problems), tuple(texts))


def problem_of(document: Document, fault: Fault) -> Problem:
    line = document.lines.at(fault.path)
    subject, field = document.subject(), field_of(fault.path)
    return Problem(document.source, line, subject, field, fault.message, fault.severity)


def _document(content: dict[str, Any], where: str) -> Document:
    api_version, kind = content.get("apiVersion"), content.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise PodtallyError(f"{where}: no object of Kubernetes", "give it apiVersion and kind")
    return Document(where, api_version, kind, content, LineMap(None))


def _is_read(document: Document) -> bool:
    return kinds.is_policy(document.api_version, document.kind)


def _read(document: Document, candidate: bool) -> _ParsedDocument:
    kind = _KINDS.get(document.kind)
    if kind is None:
        faults = [Fault(("kind",), _unknown_kind(document.kind))]
    elif document.api_version not in kinds.API_VERSIONS[document.kind]:
        faults = [Fault(("apiVersion",), _unknown_version(document))]
    else:
        decoded, faults = _decode(document, kind)
        if not any(fault.lost for fault in faults):
            return _ParsedDocument(kind.mean(decoded, candidate), faults)
    worst = next(fault for fault in faults if fault.lost)
    if document.kind == "Ingress":
        return _ParsedDocument(ingress_stand_in(document, problem_of(document, worst)), faults)
    return _ParsedDocument(stand_in(document, problem_of(document, worst), candidate), faults)


def _unknown_kind(given: str) -> str:
    if not given:
        return f"is missing or no text; give one of {', '.join(_KINDS)}"
    close = similar(given, _KINDS)
    known = f'did you mean "{close}"?' if close else f"known: {', '.join(_KINDS)}"
    return f"unknown kind {brief(given)} ({known})"


def _unknown_version(document: Document) -> str:
    right = " or ".join(kinds.API_VERSIONS[document.kind])
    if not document.api_version:
        return f"is missing or no text; give {right}"
    return f"{brief(document.api_version)} is not read for this kind; use {right}"


def _decode(document: Document, kind: _PolicyKind) -> tuple[Any, list[Fault]]:
    try:
        content = kind.nulls(document.content)
    except RecursionError:
        return None, [Fault((), "nested too deep; flatten it")]
    decoded, faults = decoding.convert_all(content, kind.shape)
    if decoded is None:
        return None, faults
    # What a field that cannot be read has left behind is no fault of its own.
    left = [fault.path for fault in faults]
    checked = [f for f in kind.check(decoded) if not any(p[: len(f.path)] == f.path for p in left)]
    return decoded, [*faults, *checked]


def _twice(kind: str, namespace: str, name: str) -> Problem:
    subject = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    return Problem("", 0, subject, "", "is declared twice; the later one counts", WARNING)

# SPDX-License-Identifier: Apache-2.0
"""Parse documents into policies: decode, validate and convert each supported kind.

An object that cannot be read becomes an unreadable policy for the endpoints it may select, so
that these are judged ``unknown``: nothing fails open. Documents of other kinds are passed on.
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
    """How a kind is parsed."""

    shape: Any  # its struct in ``schema``
    nulls: Callable[[Any], Any]  # removes nulls as the API does
    validate: Callable[[Any], Iterable[Fault]]
    convert: Callable[[Any, bool], PolicyObject]  # True: of a candidate


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
    """The policies of a text, or of many; problems in the order of the documents."""

    policies: tuple[Policy, ...] = ()
    ingresses: tuple[DeclaredIngress, ...] = ()
    others: tuple[Document, ...] = ()  # of other kinds
    problems: tuple[Problem, ...] = ()
    lost: tuple[Problem, ...] = ()  # of texts, or parts, that could not be parsed


class _ParsedDocument(NamedTuple):
    """The result for one document."""

    policy_object: PolicyObject | None
    faults: list[Fault]


def read_text(text: str | bytes, source: str, candidate: bool = False) -> ParsedPolicies:
    """Parse a text; ``source`` names it in problems, ``candidate`` marks its policies."""
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
    """Parse one object given as plain values; None if its kind is not supported.

    Raises PodtallyError if the API server would reject it and its meaning is lost. If the server
    accepts it nevertheless, the result is an unreadable policy.
    """
    document = _document(content, where)
    if not _is_read(document):
        return None
    one = _read(document, candidate=False)
    if any(fault.lost and fault.severity == ERROR for fault in one.faults):
        wrong = [str(problem_of(document, fault)) for fault in one.faults[:10]]
        raise PodtallyError("; ".join(wrong), "fix the object; the API server would reject it")
    return one.policy_object


def accepts(content: dict[str, Any]) -> bool:
    """Return whether the API server would accept the object; True for unsupported kinds."""
    try:
        document = _document(content, "object")
    except PodtallyError:
        return False
    if not _is_read(document):
        return True
    return all(fault.severity != ERROR for fault in _read(document, candidate=False).faults)


def merged(readings: Iterable[ParsedPolicies]) -> ParsedPolicies:
    """Merge into one; of two objects of the same name the later wins, as with kubectl apply."""
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
        raise PodtallyError(f"{where}: not a Kubernetes object", "add apiVersion and kind")
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
            return _ParsedDocument(kind.convert(decoded, candidate), faults)
    worst = next(fault for fault in faults if fault.lost)
    if document.kind == "Ingress":
        return _ParsedDocument(ingress_stand_in(document, problem_of(document, worst)), faults)
    return _ParsedDocument(stand_in(document, problem_of(document, worst), candidate), faults)


def _unknown_kind(given: str) -> str:
    if not given:
        return f"is missing or not a string; use one of {', '.join(_KINDS)}"
    close = similar(given, _KINDS)
    known = f'did you mean "{close}"?' if close else f"known: {', '.join(_KINDS)}"
    return f"unknown kind {brief(given)} ({known})"


def _unknown_version(document: Document) -> str:
    right = " or ".join(kinds.API_VERSIONS[document.kind])
    if not document.api_version:
        return f"is missing or not a string; use {right}"
    return f"{brief(document.api_version)} is not supported for this kind; use {right}"


def _decode(document: Document, kind: _PolicyKind) -> tuple[Any, list[Fault]]:
    try:
        content = kind.nulls(document.content)
    except RecursionError:
        return None, [Fault((), "nested too deeply; flatten it")]
    decoded, faults = decoding.convert_all(content, kind.shape)
    if decoded is None:
        return None, faults
    # A field that could not be decoded is not reported again as missing.
    left = [fault.path for fault in faults]
    checked = [
        f for f in kind.validate(decoded) if not any(p[: len(f.path)] == f.path for p in left)
    ]
    return decoded, [*faults, *checked]


def _twice(kind: str, namespace: str, name: str) -> Problem:
    subject = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    return Problem("", 0, subject, "", "is declared twice; the later one is used", WARNING)

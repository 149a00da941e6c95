# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for unreadable policies: they select what the readable part selects."""

from typing import Any

from podtally.policy.ingress import DeclaredIngress, addresses_of
from podtally.policy.load import admin_conversion, conversion
from podtally.policy.load.documents import Document, LostText
from podtally.policy.model import (
    ADMIN_TIER,
    BASELINE_TIER,
    EGRESS,
    EVERYTHING,
    INGRESS,
    LAST_PRIORITY,
    NETWORK_TIER,
    HostSubject,
    PodSubject,
    Policy,
    Selector,
    Subject,
)
from podtally.policy.problems import Fault, Problem
from podtally.policy.schema import admin, decoding, network
from podtally.policy.schema.kinds import ADMIN_GROUP, group_of
from podtally.policy.validate import network_checks
from podtally.yamltree.scalars import brief

BEFORE_ALL = -1  # a priority before every valid one

_ALL_PODS = PodSubject(EVERYTHING, EVERYTHING)
_ALL_OF_THE_HOST = HostSubject(EVERYTHING, host=True)
_ALL_KINDS = (_ALL_PODS, _ALL_OF_THE_HOST)
_TYPES = {"Egress": EGRESS, "Ingress": INGRESS}
_TIERS = {"BaselineAdminNetworkPolicy": BASELINE_TIER}


def all_unreadable(problem: Problem, candidate: bool) -> tuple[Policy, ...]:
    """Return stand-ins for a source that cannot be read at all: it may select every endpoint."""
    reason = str(problem)
    return tuple(
        Policy("unreadable", "", problem.source, subject, None, None, ADMIN_TIER, BEFORE_ALL,
               candidate, reason)
        for subject in _ALL_KINDS
    )  # fmt: skip


def lost_text_stand_ins(text: LostText, candidate: bool) -> tuple[Policy, ...]:
    """Return stand-ins for a text that cannot be parsed: one for each policy it mentions.

    If it mentions none, nothing is in doubt: a stand-in that selects nothing reports it.
    """
    policies = [document for document in text.policies if document.kind != "Ingress"]
    if not policies:
        return (empty_stand_in(text.problem, candidate),)
    return tuple(stand_in(document, text.problem, candidate) for document in policies)


def empty_stand_in(problem: Problem, candidate: bool) -> Policy:
    """Return a stand-in that selects nothing."""
    return Policy("unreadable", "", problem.source, HostSubject(), candidate=candidate,
                  unreadable=str(problem))  # fmt: skip


def stand_in(document: Document, problem: Problem, candidate: bool) -> Policy:
    """Return a stand-in for the object: it selects what its readable part selects, no more.

    If the kind is misspelt, the API group still says how to read the subject.
    """
    reason, kind, group = str(problem), document.kind, group_of(document.api_version)
    metadata, spec = _part(document.content, "metadata"), _part(document.content, "spec")
    name = _text(metadata.get("name"))
    if kind == "HostPolicy" or group == "podtally.io":
        subject: Subject = _host_subject(spec)
        return Policy(kind, "", name, subject, candidate=candidate, unreadable=reason)
    if group != ADMIN_GROUP:
        selector = _selector(spec.get("podSelector"))
        namespace = _namespace(document, metadata)
        if namespace is None:  # any namespace: after the admin tier, which decides for certain
            subject = PodSubject(EVERYTHING, selector)
            return Policy(kind, "", name, subject, None, None, ADMIN_TIER, LAST_PRIORITY,
                          candidate, reason)  # fmt: skip
        return Policy(kind, namespace, name, PodSubject(None, selector), tier=NETWORK_TIER,
                      candidate=candidate, unreadable=reason,
                      untouched=_untouched(spec))  # fmt: skip
    tier = _TIERS.get(kind, ADMIN_TIER)
    if spec.get("tier") == "Baseline":
        tier = BASELINE_TIER
    priority = spec.get("priority")
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 1000:
        priority = BEFORE_ALL
    subject = _subject(spec.get("subject"))
    return Policy(kind, "", name, subject, None, None, tier, priority, candidate, reason)


def ingress_stand_in(document: Document, problem: Problem) -> DeclaredIngress | None:
    """Return a stand-in for an Ingress: it may expose any Service of its namespace."""
    metadata = _part(document.content, "metadata")
    namespace = _namespace(document, metadata)
    if namespace is None:
        return None
    name, addresses = _text(metadata.get("name")), addresses_of(document.content.get("status"))
    return DeclaredIngress(namespace, name, "", (), addresses, str(problem))


def _untouched(spec: dict[str, Any]) -> str:
    """Return the direction that a NetworkPolicy with a valid selector does not isolate; or "".

    Whatever is wrong with its rules: a server rejects the object, or drops the unknown fields,
    and without ``egress`` and ``policyTypes`` egress is not isolated.
    """
    selector = _decoded(spec.get("podSelector"), network.LabelSelector, decoding.built_in_nulls)
    types = spec.get("policyTypes")
    if not isinstance(selector, network.LabelSelector) or spec.get("egress") is not None:
        return ""
    if types is None:
        return EGRESS
    known = isinstance(types, list) and types and all(each in _TYPES for each in types)
    missing = [direction for name, direction in _TYPES.items() if known and name not in types]
    return missing[0] if missing else ""


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _namespace(document: Document, metadata: dict[str, Any]) -> str | None:
    """Return the namespace, by default "default"; None if unknown."""
    given = metadata.get("namespace")
    if not isinstance(document.content.get("metadata"), dict):
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)  # the quotes are missing
    if not isinstance(given, str | None):
        return None
    return given or conversion.DEFAULT_NAMESPACE


def _host_subject(spec: dict[str, Any]) -> HostSubject:
    names = ("endpointSelector", "units", "containers", "host")
    decoded = _decoded({name: spec[name] for name in names if name in spec},
                       network.HostSpec, decoding.built_in_nulls)  # fmt: skip
    if not isinstance(decoded, network.HostSpec) or any(network_checks.selects_endpoints(decoded)):
        return _ALL_OF_THE_HOST
    return conversion.endpoints(decoded)


def _text(value: Any) -> str:
    return brief(value, 253)[1:-1] if isinstance(value, str) else ""


def _selector(given: Any) -> Selector:
    """Return the selector if valid, otherwise one that selects everything."""
    decoded = _decoded(given, network.LabelSelector, decoding.built_in_nulls)
    if not isinstance(decoded, network.LabelSelector) or any(network_checks.selector(decoded, ())):
        return EVERYTHING
    return conversion.selector(decoded)


def _subject(given: Any) -> Subject:
    decoded = _decoded(given, admin.IngressPeer, decoding.custom_nulls)
    if not isinstance(decoded, admin.IngressPeer):
        return _ALL_PODS
    pods = decoded.pods
    selectors = [
        decoded.namespaces,
        *((pods.namespace_selector, pods.pod_selector) if pods else ()),
    ]
    if any(fault for selector in selectors for fault in network_checks.selector(selector, ())):
        return _ALL_PODS
    if decoded.namespaces is not None and pods is not None:
        return _ALL_PODS
    return admin_conversion.subject(decoded)


def _decoded(given: Any, shape: Any, nulls: Any) -> Any:
    try:
        return decoding.convert(nulls(given), shape)
    except RecursionError:
        return Fault((), "")

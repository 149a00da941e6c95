"""Stand-ins for policies that cannot be read: for whom they are, as far as that can be told."""

from typing import Any

from podtally.policy import decoding, meaning, meaning_admin, validation, wire, wire_admin
from podtally.policy.documents import Document
from podtally.policy.model import (
    ADMIN_TIER,
    BASELINE_TIER,
    EVERYTHING,
    NETWORK_TIER,
    HostSubject,
    PodSubject,
    Policy,
    Selector,
    Subject,
)
from podtally.policy.problems import Fault, Problem
from podtally.policy.rules import EGRESS, INGRESS
from podtally.policy.scalars import brief

BEFORE_ALL = -1  # a priority that no policy can have

_ALL_PODS = PodSubject(EVERYTHING, EVERYTHING)
_ALL_OF_THE_HOST = HostSubject(EVERYTHING, host=True)
_ALL_KINDS = (_ALL_PODS, _ALL_OF_THE_HOST)
_ADMIN_KINDS = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")
_TYPES = {"Egress": EGRESS, "Ingress": INGRESS}
_TIERS = {"BaselineAdminNetworkPolicy": BASELINE_TIER}


def all_unreadable(problem: Problem, candidate: bool) -> tuple[Policy, ...]:
    """For a document of which not even the kind is known: it may be for everybody."""
    reason = str(problem)
    return tuple(
        Policy("unreadable", "", problem.source, subject, None, None, ADMIN_TIER, BEFORE_ALL,
               candidate, reason)
        for subject in _ALL_KINDS
    )  # fmt: skip


def unreadable(document: Document, problem: Problem, candidate: bool) -> Policy:
    """In the place of the object, as long as it says where that is."""
    reason, kind = str(problem), document.kind
    metadata, spec = _part(document.content, "metadata"), _part(document.content, "spec")
    name = _text(metadata.get("name"))
    if kind == "NetworkPolicy" and _tells_namespace(document, metadata):
        namespace = metadata.get("namespace") or meaning.DEFAULT_NAMESPACE
        selector = _selector(spec.get("podSelector"))
        return Policy(kind, namespace, name, PodSubject(None, selector), tier=NETWORK_TIER,
                      candidate=candidate, unreadable=reason,
                      untouched=_untouched(spec))  # fmt: skip
    if kind == "HostPolicy" or document.api_version.startswith("podtally.io/"):
        return Policy(kind, "", name, _ALL_OF_THE_HOST, candidate=candidate, unreadable=reason)
    if kind not in _ADMIN_KINDS:
        return Policy(kind, "", name, _ALL_PODS, None, None, ADMIN_TIER, BEFORE_ALL, candidate,
                      reason)  # fmt: skip
    tier = _TIERS.get(kind, ADMIN_TIER)
    if kind == "ClusterNetworkPolicy" and spec.get("tier") == "Baseline":
        tier = BASELINE_TIER
    priority = spec.get("priority")
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 1000:
        priority = BEFORE_ALL
    subject = _subject(spec.get("subject"))
    return Policy(kind, "", name, subject, None, None, tier, priority, candidate, reason)


def _untouched(spec: dict[str, Any]) -> str:
    """The direction that a NetworkPolicy with a good selector does not isolate, whatever is wrong
    with its rules: a server refuses the object, or drops the fields that it does not know, and
    without ``egress`` and ``policyTypes`` nothing isolates that direction.
    """
    selector = _decoded(spec.get("podSelector"), wire.LabelSelector, decoding.built_in_nulls)
    types = spec.get("policyTypes")
    if not isinstance(selector, wire.LabelSelector) or spec.get("egress") is not None:
        return ""
    if types is None:
        return EGRESS
    known = isinstance(types, list) and types and all(each in _TYPES for each in types)
    missing = [direction for name, direction in _TYPES.items() if known and name not in types]
    return missing[0] if missing else ""


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _tells_namespace(document: Document, metadata: dict[str, Any]) -> bool:
    """None is the default one; metadata that is no object tells nothing."""
    given = metadata.get("namespace")
    return isinstance(document.content.get("metadata"), dict) and isinstance(given, str | None)


def _text(value: Any) -> str:
    return brief(value, 253)[1:-1] if isinstance(value, str) else ""


def _selector(given: Any) -> Selector:
    """The selector if it is a good one, else all."""
    decoded = _decoded(given, wire.LabelSelector, decoding.built_in_nulls)
    if not isinstance(decoded, wire.LabelSelector) or any(validation.selector(decoded, ())):
        return EVERYTHING
    return meaning.selector(decoded)


def _subject(given: Any) -> Subject:
    decoded = _decoded(given, wire_admin.IngressPeer, decoding.custom_nulls)
    if not isinstance(decoded, wire_admin.IngressPeer):
        return _ALL_PODS
    pods = decoded.pods
    selectors = [
        decoded.namespaces,
        *((pods.namespace_selector, pods.pod_selector) if pods else ()),
    ]
    if any(fault for selector in selectors for fault in validation.selector(selector, ())):
        return _ALL_PODS
    if decoded.namespaces is not None and pods is not None:
        return _ALL_PODS
    return meaning_admin.subject(decoded)


def _decoded(given: Any, shape: Any, nulls: Any) -> Any:
    try:
        return decoding.convert(nulls(given), shape)
    except RecursionError:
        return Fault((), "")

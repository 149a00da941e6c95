# SPDX-License-Identifier: Apache-2.0
"""Writes suggested policies as YAML, with the evidence for each rule in comments."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from podtally.policy.explain.formatting import format_network
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    EGRESS,
    Block,
    Peer,
    PodPeer,
    PodSubject,
    PolicyPort,
    Requirement,
    Selector,
)
from podtally.suggest.flows import Flow
from podtally.suggest.suggestion import RuleEvidence, SuggestedPolicy

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED = frozenset(["y", "n", "yes", "no", "true", "false", "on", "off", "null"])
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_MAX_EVIDENCE = 5  # flows of a rule, and excluded ones of a reason
_EXCLUDED_TEXT = {
    "denied": "denied",
    "failed": "refused, unanswered or rejected",
    "once": "seen once",
    "unknown": "the verdict is unknown",
    "not expressible": "no NetworkPolicy rule can be written",
    "own node": "own node: always allowed",
}


def manifests(suggested: Iterable[SuggestedPolicy], window: tuple[float, float]) -> str:
    """Return all policies as one text, deterministically."""
    return "---\n".join(manifest(each, window) for each in suggested)


def manifest(each: SuggestedPolicy, window: tuple[float, float]) -> str:
    """Return one policy; comments never end early, whatever names contain."""
    policy = each.policy
    lines = [*_head(each, window)]
    lines += ["apiVersion: networking.k8s.io/v1", f"kind: {policy.kind}", "metadata:"]
    lines += [f"  name: {_text(policy.name)}", f"  namespace: {_text(policy.namespace)}", "spec:"]
    assert isinstance(policy.subject, PodSubject)
    lines += _selector("podSelector", policy.subject.pods, 2)
    lines += [f"  policyTypes: [{each.direction.capitalize()}]"]
    if each.rules:
        lines += [f"  {each.direction}:"]
        for rule in each.rules:
            lines += _rule(rule, each.direction)
    return "\n".join(lines) + "\n"


def _head(each: SuggestedPolicy, window: tuple[float, float]) -> Iterator[str]:
    names = ", ".join(map(str, each.workloads))
    flows = [flow for rule in each.rules for flow in rule.flows]
    seen = _sums(flows) if flows else f"no {each.direction} was seen"
    yield _comment(f"{names}, {each.direction}: {seen}.")
    yield _comment(
        f"Window: {_time(window[0])} to {_time(window[1])}; it does not show jobs that run less "
        "often, nor times without an agent."
    )
    if len(each.workloads) > 1:
        yield _comment("No label tells these workloads apart: the policy is for all of them.")
    reasons = sorted({flow.excluded for flow in each.excluded})
    for reason in reasons:
        flows = [flow for flow in each.excluded if flow.excluded == reason]
        yield _comment(f"Not allowed, {_EXCLUDED_TEXT.get(reason, reason)}:")
        yield from _listed(flows, "  ")


def _listed(flows: Sequence[Flow], indent: str = "") -> Iterator[str]:
    for flow in flows[:_MAX_EVIDENCE]:
        yield _comment(f"{indent}{flow}: {_sums([flow])}")
    if len(flows) > _MAX_EVIDENCE:
        rest = flows[_MAX_EVIDENCE:]
        yield _comment(f"{indent}and {len(rest)} more: {_sums(rest)}")


def _rule(each: RuleEvidence, direction: str) -> Iterator[str]:
    for line in _listed(each.flows):
        yield f"  {line}"
    for note in each.notes:
        yield f"  {_comment(note)}"
    first = "- "
    if each.rule.peers:
        yield f"  {first}{'to' if direction == EGRESS else 'from'}:"
        first = "  "
        for peer in each.rule.peers:
            yield from _peer(peer)
    if each.rule.ports:
        yield f"  {first}ports:"
        for port in each.rule.ports:
            yield f"    - {_port(port)}"


def _peer(peer: Peer) -> Iterator[str]:
    if isinstance(peer, Block):
        yield "    - ipBlock:"
        yield f"        cidr: {_text(format_network(peer.network))}"
        if peer.excepted:
            yield "        except:"
            for network in peer.excepted:
                yield f"        - {_text(format_network(network))}"
        return
    assert isinstance(peer, PodPeer), "a NetworkPolicy has no other peers"
    mark = "    - "
    if peer.namespaces is not None:
        yield from _selector("namespaceSelector", peer.namespaces, 6, mark)
        mark = "      "
    yield from _selector("podSelector", peer.pods, 6, mark)


def _selector(name: str, selector: Selector, indent: int, mark: str = "") -> Iterator[str]:
    margin = " " * indent
    if not selector.requirements:
        yield f"{mark or margin}{name}: {{}}"
        return
    yield f"{mark or margin}{name}:"
    labels = [each for each in selector.requirements if _is_label(each)]
    others = [each for each in selector.requirements if not _is_label(each)]
    if labels:
        yield f"{margin}  matchLabels:"
        for key, _, values in labels:
            yield f"{margin}    {_text(key)}: {_text(next(iter(values)))}"
    if others:
        yield f"{margin}  matchExpressions:"
        for key, operator, values in others:
            written = f", values: [{', '.join(map(_text, sorted(values)))}]" if values else ""
            yield f"{margin}  - {{key: {_text(key)}, operator: {operator}{written}}}"


def _is_label(requirement: Requirement) -> bool:
    return requirement.operator == "In" and len(requirement.values) == 1


def _port(port: PolicyPort) -> str:
    protocol = _PROTOCOL_NAMES[port.protocol]
    if port.name:
        return f"{{protocol: {protocol}, port: {_text(port.name)}}}"
    end = f", endPort: {port.last}" if port.last != port.first else ""
    return f"{{protocol: {protocol}, port: {port.first}{end}}}"


def _sums(flows: Sequence[Flow]) -> str:
    connections = sum(flow.connections for flow in flows)
    first, last = min(flow.first for flow in flows), max(flow.last for flow in flows)
    ports = sum(flow.ports for flow in flows)
    many = f" on {ports} ports" if any(flow.ports > 1 for flow in flows) else ""
    return (
        f"{connections:,} connection{'s' * (connections != 1)}{many}, "
        f"{_size(sum(flow.bytes for flow in flows))}, {_time(first)} to {_time(last)}"
    )


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _comment(text: str) -> str:
    """Return a comment of one line: names of peers may contain anything."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text)


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value)

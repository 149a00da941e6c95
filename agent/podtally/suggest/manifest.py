# SPDX-License-Identifier: Apache-2.0
"""Writes suggested policies as YAML, with the evidence for each rule in comments."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from podtally.policy.explain.formatting import format_network
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    ALLOW,
    DENY,
    EGRESS,
    Block,
    DomainPeer,
    HostSubject,
    Peer,
    PodPeer,
    PodSubject,
    PolicyPort,
    Selector,
)
from podtally.suggest.flows import Flow
from podtally.suggest.suggestion import (
    CLUSTER_NETWORK_POLICY,
    HOST_POLICY,
    RuleEvidence,
    SuggestedPolicy,
)
from podtally.suggest.yaml_text import comment, scalar, selector_lines

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_ACTIONS = {ALLOW: "Accept", DENY: "Deny"}
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
    if policy.kind == CLUSTER_NETWORK_POLICY:
        return "\n".join([*lines, *_cluster_lines(each)]) + "\n"
    if policy.kind == HOST_POLICY:
        return "\n".join([*lines, *_host_lines(each)]) + "\n"
    lines += ["apiVersion: networking.k8s.io/v1", f"kind: {policy.kind}", "metadata:"]
    lines += [f"  name: {scalar(policy.name)}", f"  namespace: {scalar(policy.namespace)}", "spec:"]
    assert isinstance(policy.subject, PodSubject)
    lines += selector_lines("podSelector", policy.subject.pods, 2)
    lines += [f"  policyTypes: [{each.direction.capitalize()}]"]
    if each.rules:
        lines += [f"  {each.direction}:"]
        for rule in each.rules:
            lines += _rule(rule, each.direction)
    return "\n".join(lines) + "\n"


def _host_lines(each: SuggestedPolicy) -> Iterator[str]:
    yield "apiVersion: podtally.io/v1alpha1"
    yield f"kind: {each.policy.kind}"
    yield "metadata:"
    yield f"  name: {scalar(each.policy.name)}"
    yield "spec:"
    assert isinstance(each.policy.subject, HostSubject)
    yield from (f"  {line}" for line in _host_subject(each.policy.subject))
    yield f"  policyTypes: [{each.direction.capitalize()}]"
    if each.rules:
        yield f"  {each.direction}:"
        for rule in each.rules:
            yield from _rule(rule, each.direction)


def _host_subject(subject: HostSubject) -> Iterator[str]:
    if subject.units:
        yield f"units: [{', '.join(map(json.dumps, subject.units))}]"
    if subject.containers:
        yield f"containers: [{', '.join(map(json.dumps, subject.containers))}]"
    if subject.host:
        yield "host: true"
    if subject.endpoints is not None:
        yield from selector_lines("endpointSelector", subject.endpoints, 0)


def _cluster_lines(each: SuggestedPolicy) -> Iterator[str]:
    policy = each.policy
    yield "apiVersion: policy.networking.k8s.io/v1alpha2"
    yield f"kind: {policy.kind}"
    yield "metadata:"
    yield f"  name: {scalar(policy.name)}"
    yield "spec:"
    yield "  tier: Admin"
    yield f"  priority: {policy.priority}"
    yield "  subject:"
    assert isinstance(policy.subject, PodSubject)
    yield "    pods:"
    yield from selector_lines("namespaceSelector", policy.subject.namespaces or Selector(), 6)
    yield from selector_lines("podSelector", policy.subject.pods, 6)
    yield f"  {each.direction}:"
    for evidence in each.rules:
        for line in (*_listed(evidence.flows), *map(comment, evidence.notes)):
            yield f"  {line}"
        yield f"  - action: {_ACTIONS[evidence.rule.action]}"
        yield f"    {'to' if each.direction == EGRESS else 'from'}:"
        for peer in evidence.rule.peers or ():
            yield from _cluster_peer(peer)
        if evidence.rule.ports:
            yield "    protocols:"
            for port in evidence.rule.ports:
                yield f"    - {_destination_port(port)}"


def _cluster_peer(peer: Peer) -> Iterator[str]:
    if isinstance(peer, Block):
        yield f"    - networks: [{scalar(format_network(peer.network))}]"
    elif isinstance(peer, DomainPeer):
        yield f"    - domainNames: [{', '.join(map(scalar, peer.names))}]"
    else:
        assert isinstance(peer, PodPeer)
        if peer.pods == Selector():
            yield from selector_lines("namespaces", peer.namespaces or Selector(), 6, "    - ")
            return
        yield "    - pods:"
        yield from selector_lines("namespaceSelector", peer.namespaces or Selector(), 8)
        yield from selector_lines("podSelector", peer.pods, 8)


def _destination_port(port: PolicyPort) -> str:
    written = f"number: {port.first}"
    if port.last != port.first:
        written = f"range: {{start: {port.first}, end: {port.last}}}"
    protocol = _PROTOCOL_NAMES[port.protocol].lower()
    return f"{{{protocol}: {{destinationPort: {{{written}}}}}}}"


def _head(each: SuggestedPolicy, window: tuple[float, float]) -> Iterator[str]:
    names = ", ".join(map(str, each.workloads))
    flows = [flow for rule in each.rules for flow in rule.flows]
    seen = _sums(flows) if flows else f"no {each.direction} was seen"
    yield comment(f"{names}, {each.direction}: {seen}.")
    yield comment(f"Window: {_time(window[0])} to {_time(window[1])}; rarer jobs are not in it.")
    if len(each.workloads) > 1:
        yield comment("No label tells these workloads apart: the policy is for all of them.")
    reasons = sorted({flow.excluded for flow in each.excluded})
    for reason in reasons:
        flows = [flow for flow in each.excluded if flow.excluded == reason]
        yield comment(f"Not allowed, {_EXCLUDED_TEXT.get(reason, reason)}:")
        yield from _listed(flows, "  ")


def _listed(flows: Sequence[Flow], indent: str = "") -> Iterator[str]:
    for flow in flows[:_MAX_EVIDENCE]:
        yield comment(f"{indent}{flow}: {_sums([flow])}")
    if len(flows) > _MAX_EVIDENCE:
        rest = flows[_MAX_EVIDENCE:]
        yield comment(f"{indent}and {len(rest)} more: {_sums(rest)}")


def _rule(each: RuleEvidence, direction: str) -> Iterator[str]:
    for line in _listed(each.flows):
        yield f"  {line}"
    for note in each.notes:
        yield f"  {comment(note)}"
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
        yield f"        cidr: {scalar(format_network(peer.network))}"
        if peer.excepted:
            yield "        except:"
            for network in peer.excepted:
                yield f"        - {scalar(format_network(network))}"
        return
    if isinstance(peer, DomainPeer):
        yield f"    - domainNames: [{', '.join(map(scalar, peer.names))}]"
        return
    if isinstance(peer, HostSubject):
        first, *rest = _host_subject(peer)
        yield f"    - {first}"
        yield from (f"      {line}" for line in rest)
        return
    assert isinstance(peer, PodPeer), "a NetworkPolicy has no other peers"
    mark = "    - "
    if peer.namespaces is not None:
        yield from selector_lines("namespaceSelector", peer.namespaces, 6, mark)
        mark = "      "
    yield from selector_lines("podSelector", peer.pods, 6, mark)


def _port(port: PolicyPort) -> str:
    protocol = _PROTOCOL_NAMES[port.protocol]
    if port.name:
        return f"{{protocol: {protocol}, port: {scalar(port.name)}}}"
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

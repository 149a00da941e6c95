# SPDX-License-Identifier: Apache-2.0
"""Checks for valid NetworkPolicies that probably do not do what their author intended."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from podtally.policy.cluster.model import ClusterModel
from podtally.policy.explain.formatting import join_words
from podtally.policy.lint.cover_index import PeerIndex
from podtally.policy.lint.findings import (
    ALLOW_ALL,
    NO_DNS,
    NO_SELECTOR,
    OR_SELECTORS,
    POLICY_TYPES,
    SERVICE_ADDRESS,
    DeclaredDocuments,
    LintFinding,
    finding,
    items,
    part,
)
from podtally.policy.lint.subsumption import covers_subject
from podtally.policy.model import (
    ALLOW,
    ANY_PROTOCOL,
    DENY,
    EGRESS,
    INGRESS,
    UDP,
    Block,
    DomainPeer,
    Policy,
    Rule,
)
from podtally.policy.problems import Path
from podtally.policy.reference.matching import rules_of

PEERS = {INGRESS: "from", EGRESS: "to"}
_DNS = 53
_WHOLE = (0, 96)  # bits of the networks ::/0 and 0.0.0.0/0


def intent_findings(declared: Sequence[DeclaredDocuments]) -> Iterator[LintFinding]:
    """Yield the findings that need no cluster."""
    for each in declared:
        if each.policy.kind == "NetworkPolicy":
            yield from _types(each)
            yield from _selector(each)
            yield from _or_selectors(each)
        if each.policy.kind in ("NetworkPolicy", "HostPolicy"):
            yield from _allow_all(each)
    yield from _without_dns(declared)


def _types(each: DeclaredDocuments) -> Iterator[LintFinding]:
    spec = part(each.document.content, "spec")
    if not isinstance(spec, dict) or spec.get("policyTypes"):
        return
    if spec.get("egress") and not spec.get("ingress"):
        message = "without policyTypes the policy denies all ingress too; add policyTypes: [Egress]"
        yield finding(POLICY_TYPES, each.document, ("spec", "egress"), message)
    elif "egress" in spec and not spec["egress"]:
        message = "an empty egress isolates nothing without policyTypes: [Egress]; add it"
        yield finding(POLICY_TYPES, each.document, ("spec", "egress"), message)


def _selector(each: DeclaredDocuments) -> Iterator[LintFinding]:
    if part(each.document.content, "spec", "podSelector") is None:
        message = "podSelector is missing: every pod of the namespace is selected; write it, or {}"
        yield finding(NO_SELECTOR, each.document, ("spec",), message)


def _or_selectors(each: DeclaredDocuments) -> Iterator[LintFinding]:
    content = each.document.content
    for direction, field in PEERS.items():
        for number, rule in enumerate(items(content, "spec", direction)):
            peers = items(rule, field)
            spaces = any(_only(peer, "namespaceSelector") is not None for peer in peers)
            pods = [index for index, peer in enumerate(peers) if _only(peer, "podSelector")]
            if spaces and pods:
                path: Path = ("spec", direction, number, field, pods[0])
                message = (
                    "peers are alternatives: these pods of the policy's own namespace, or all pods "
                    "of the selected namespaces; for both conditions put them into one peer"
                )
                yield finding(OR_SELECTORS, each.document, path, message)


def _only(peer: Any, field: str) -> Any:
    """Return the selector if the peer has no other field; {} for one that selects all."""
    return peer[field] if isinstance(peer, dict) and set(peer) == {field} else None


def _allow_all(each: DeclaredDocuments) -> Iterator[LintFinding]:
    for direction in (INGRESS, EGRESS):
        for rule in rules_of(each.policy, direction) or ():
            if rule.peers is None and rule.ports is None:
                message = f"a rule without {PEERS[direction]} and ports allows all {direction}"
                path = ("spec", direction, rule.index)
                yield finding(ALLOW_ALL, each.document, path, message)
                break


def _without_dns(declared: Sequence[DeclaredDocuments]) -> Iterator[LintFinding]:
    """Check that pods with egress rules that need names may use DNS."""
    index, allowing = PeerIndex(), list[Policy]()
    for policy, _ in declared:
        if any(_allows_dns(rule) for rule in policy.egress or ()):
            index.add(len(allowing), (policy.subject,), policy.namespace)
            allowing.append(policy)
    for policy, document in declared:
        if not _needs_dns(policy):
            continue
        found = (allowing[n] for n in index.find((policy.subject,), policy.namespace))
        if not any(covers_subject(other, policy) for other in found):
            message = "no rule allows DNS (UDP port 53) to the pods that this isolates in egress"
            yield finding(NO_DNS, document, ("spec", "egress"), message)


def _needs_dns(policy: Policy) -> bool:
    """Return whether the policy isolates pods in egress, and has rules that need names.

    Policies of the admin tiers isolate by a rule that denies everything else.
    """
    rules = policy.egress or ()
    if policy.kind == "NetworkPolicy":
        return any(map(_needs_names, rules))
    if not any(isinstance(peer, DomainPeer) for rule in rules for peer in rule.peers or ()):
        return False
    return policy.kind == "HostPolicy" or any(map(_denies_dns, rules))


def _denies_dns(rule: Rule) -> bool:
    """Return whether the rule denies DNS to every address of a family."""
    everything = any(isinstance(p, Block) and p.network.bits in _WHOLE for p in rule.peers or ())
    return rule.action == DENY and everything and _has_dns_port(rule)


def _needs_names(rule: Rule) -> bool:
    """Return whether the rule allows more than explicit addresses."""
    return rule.peers is None or any(
        not isinstance(peer, Block) or peer.network.bits in _WHOLE for peer in rule.peers
    )


def _allows_dns(rule: Rule) -> bool:
    """Return whether the rule allows DNS; any named port may be it."""
    return rule.action == ALLOW and _has_dns_port(rule) and not _is_by_name(rule)


def _has_dns_port(rule: Rule) -> bool:
    return rule.ports is None or any(
        port.protocol in (UDP, ANY_PROTOCOL) and (port.name or port.first <= _DNS <= port.last)
        for port in rule.ports
    )


def _is_by_name(rule: Rule) -> bool:
    """Return whether all peers are names: without DNS such a rule allows nothing."""
    return bool(rule.peers) and all(isinstance(peer, DomainPeer) for peer in rule.peers or ())


def service_address_findings(
    declared: Sequence[DeclaredDocuments], model: ClusterModel
) -> Iterator[LintFinding]:
    """Yield ipBlocks of Service addresses: policies apply to the pods behind, never to these."""
    others = sorted(
        ip
        for endpoint in (*(m.endpoint for m in model.members), *model.nodes)
        for ip in endpoint.ips
    )
    services = sorted((ip, name) for name, ips in model.services.items() for ip in ips)
    known: dict[Block, list[str]] = {}
    for policy, document in declared:
        for direction in (INGRESS, EGRESS):
            for rule in rules_of(policy, direction) or ():
                for number, peer in enumerate(rule.peers or ()):
                    if not isinstance(peer, Block) or policy.kind != "NetworkPolicy":
                        continue
                    if peer not in known:
                        known[peer] = _services_in(peer, services, others)
                    if known[peer]:
                        path = ("spec", direction, rule.index, PEERS[direction], number, "ipBlock")
                        names = join_words(sorted(set(known[peer])), "and")
                        message = f"contains Service addresses ({names}), which never match"
                        yield finding(SERVICE_ADDRESS, document, path, message)


def _services_in(
    block: Block, services: Sequence[tuple[int, str]], others: Sequence[int]
) -> list[str]:
    """Return the Services in a block without other known addresses; both lists are sorted."""
    first = block.network.first
    end = first + (1 << (128 - block.network.bits))
    if bisect_left(others, first) < bisect_left(others, end):
        return []
    found = services[bisect_left(services, (first, "")) : bisect_left(services, (end, ""))]
    return [name for _, name in found]

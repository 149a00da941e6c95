# SPDX-License-Identifier: Apache-2.0
"""Proves suggestions: nothing that was seen is denied, nothing in them can be left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.explain.formatting import format_requirement, format_rule
from podtally.policy.lint.checks import lint
from podtally.policy.lint.findings import NO_DNS, UNISOLATED, DeclaredDocuments
from podtally.policy.load import documents
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.load.parser import read_documents
from podtally.policy.model import (
    ADDRESS,
    ALLOW,
    NODE,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    Question,
    Rule,
    Selector,
)
from podtally.policy.problems import Problem
from podtally.policy.reference.engine import rule_input
from podtally.policy.reference.matching import (
    RuleInput,
    peer_matches,
    port_matches,
    rule_matches,
    selects_endpoint,
)
from podtally.policy.reference.selectors import selects
from podtally.suggest.conversation import NODE_PEER, POD_PEER
from podtally.suggest.flows import Flow, Party
from podtally.suggest.manifest import manifests
from podtally.suggest.replay import Possible, Replay, known_names
from podtally.suggest.suggestion import SuggestedPolicy
from podtally.suggest.workloads import WorkloadName, Workloads


class Proof(NamedTuple):
    newly_denied: tuple[Flow, ...]
    allowed: int  # flows that were replayed
    set_aside: Mapping[str, int]  # flows that were not, by reason
    possible: Possible
    removable: tuple[str, ...]  # parts of policies that nothing needs
    findings: tuple[str, ...]  # of podtally check

    @property
    def holds(self) -> bool:
        return not (self.newly_denied or self.removable or self.findings)


def after(declared: Sequence[Policy], added: Sequence[Policy]) -> list[Policy]:
    """Return the policies in force once ``added`` are applied: they replace namesakes."""
    names = {(policy.kind, policy.namespace, policy.name) for policy in added}
    kept = [each for each in declared if (each.kind, each.namespace, each.name) not in names]
    return [*kept, *added]


def prove(
    suggested: Sequence[SuggestedPolicy],
    window: tuple[float, float],
    flows: Sequence[Flow],
    declared: Sequence[Policy],
    workloads: Workloads,
) -> Proof:
    subjects = {name for each in suggested for name in each.workloads}
    policies = after(declared, [each.policy for each in suggested])
    touched = [flow for flow in flows if _touches(flow, subjects)]
    allowed = [flow for flow in touched if not flow.excluded]
    replay = Replay(workloads)
    return Proof(
        newly_denied=tuple(replay.newly_denied(allowed, declared, policies)),
        allowed=len(allowed),
        set_aside=_set_aside(touched),
        possible=replay.possible(subjects, allowed, declared, policies),
        removable=tuple(part for each in suggested for part in _removable(each, workloads)),
        findings=tuple(_round_trip(suggested, window, workloads)),
    )


def check_policies(
    policies: Sequence[Policy],
    flows: Sequence[Flow],
    declared: Sequence[Policy],
    workloads: Workloads,
) -> Proof:
    """Prove written policies: (a) and (b) only."""
    in_force = after(declared, policies)
    allowed = [flow for flow in flows if not flow.excluded]
    replay = Replay(workloads)
    return Proof(
        newly_denied=tuple(replay.newly_denied(allowed, declared, in_force)),
        allowed=len(allowed),
        set_aside=_set_aside(flows),
        possible=replay.possible(workloads.names, allowed, declared, in_force),
        removable=(),
        findings=(),
    )


def _set_aside(flows: Sequence[Flow]) -> Mapping[str, int]:
    return dict(sorted(Counter(flow.excluded for flow in flows if flow.excluded).items()))


def _touches(flow: Flow, subjects: set[WorkloadName]) -> bool:
    return any(
        end.kind == POD_PEER and end.workload in subjects
        for end in (flow.key.source, flow.key.destination)
    )


def _removable(each: SuggestedPolicy, workloads: Workloads) -> Iterator[str]:
    """Yield the rules, peers and ports that no flow needs, and labels that select no less."""
    needed: set[tuple[int, str, int]] = set()
    for flow in (flow for rule in each.rules for flow in rule.flows):
        matching = [
            (rule.index, peer, port)
            for rule in (evidence.rule for evidence in each.rules)
            if rule.action == ALLOW
            for peer, port in _matching(rule, each, flow, workloads)
        ]
        for index, peer, port in matching:
            rules = {index for index, _, _ in matching}
            if len(rules) == 1:
                needed.add((index, "rule", 0))
            if len({(i, p) for i, p, _ in matching}) == 1:
                needed.add((index, "peer", peer))
            if len({(i, p) for i, _, p in matching}) == 1:
                needed.add((index, "port", port))
    for rule in (evidence.rule for evidence in each.rules if evidence.rule.action == ALLOW):
        name = format_rule(each.policy, rule, each.direction)
        parts = [("rule", 0)]
        parts += [("peer", number) for number in range(len(rule.peers or ()))]
        parts += [("port", number) for number in range(len(rule.ports or ()))]
        for part, number in parts:
            if (rule.index, part, number) not in needed:
                yield f"{name}: {part} {number} is not needed"
        for selected in rule.peers or ():
            if isinstance(selected, PodPeer):
                namespace = each.workloads[0].namespace
                for requirement in (selected.namespaces or Selector()).requirements:
                    namespace = next(iter(requirement.values), namespace)
                yield from _wide_labels(selected.pods, namespace, name, workloads)
    yield from _wide_subject(each, workloads)


def _wide_subject(each: SuggestedPolicy, workloads: Workloads) -> Iterator[str]:
    """Yield labels of the subject that select no less; a workload's own belong together."""
    subject, workload = each.policy.subject, each.workloads[0]
    if isinstance(subject, PodSubject) and subject.pods != workloads.cluster.selectors.get(
        workload
    ):
        name = f"{each.policy.namespace}/{each.policy.name}"
        yield from _wide_labels(subject.pods, workload.namespace, name, workloads)


def _wide_labels(
    selector: Selector, namespace: str, name: str, workloads: Workloads
) -> Iterator[str]:
    """Yield labels without which the selector selects no other workload. One is always kept:
    an empty selector is for whatever comes next.
    """
    if len(selector.requirements) < 2:
        return
    names = workloads.in_namespace(namespace)
    selected = _selected(selector, names, workloads)
    for requirement in selector.requirements:
        less = Selector(tuple(r for r in selector.requirements if r != requirement))
        if _selected(less, names, workloads) == selected:
            yield f"{name}: label {format_requirement(requirement)} is not needed"


def _selected(
    selector: Selector, names: Sequence[WorkloadName], workloads: Workloads
) -> set[WorkloadName]:
    return {
        name
        for name in names
        if any(selects(selector, labels) for labels in workloads.label_sets(name))
    }


def flows_matching(
    rule: Rule, policy: Policy, direction: str, flow: Flow, workloads: Workloads
) -> bool:
    """Return whether the rule allows a connection of the flow, and the policy is for it."""
    return any(
        selects_endpoint(policy, conn.local) and rule_matches(rule, policy, conn)
        for conn in _inputs(flow, direction, workloads)
    )


def _matching(
    rule: Rule, each: SuggestedPolicy, flow: Flow, workloads: Workloads
) -> Iterator[tuple[int, int]]:
    """Yield the peers and ports of a rule that match any connection of the flow."""
    found: set[tuple[int, int]] = set()
    for conn in _inputs(flow, each.direction, workloads):
        ports = [i for i, port in enumerate(rule.ports or ()) if port_matches(port, conn)]
        peers = [
            i for i, peer in enumerate(rule.peers or ()) if peer_matches(peer, each.policy, conn)
        ]
        found |= {(peer, port) for peer in peers for port in ports}
    yield from sorted(found)


def _inputs(flow: Flow, direction: str, workloads: Workloads) -> Iterator[RuleInput]:
    protocol = PROTOCOLS[flow.key.protocol]
    for source, source_ip in _ends(flow.key.source, flow, workloads):
        for destination, destination_ip in _ends(flow.key.destination, flow, workloads):
            ends = (source, destination, protocol, flow.key.port, source_ip, destination_ip)
            names = known_names(flow.key.destination.domain)
            yield rule_input(Question(*ends, names=names), direction)


def _ends(party: Party, flow: Flow, workloads: Workloads) -> list[tuple[PolicyEndpoint, int]]:
    if party.kind == POD_PEER:
        return [
            (pod, pod.ips[0] if pod.ips else 0) for pod in workloads.representatives(party.workload)
        ]
    kind = NODE if party.kind == NODE_PEER else ADDRESS
    return [(PolicyEndpoint(kind, name=party.name), ip) for ip in sorted(flow.addresses)]


def _round_trip(
    suggested: Sequence[SuggestedPolicy], window: tuple[float, float], workloads: Workloads
) -> Iterator[str]:
    """Yield what `podtally check` finds, and policies that are read as others."""
    cluster = _with_former(workloads)
    for _, group in groupby(suggested, key=lambda each: each.workloads[0].namespace):
        some = list(group)
        read = documents.read_text(manifests(some, window), "suggestion")
        declared = []
        problems: list[Problem] = list(read.problems)
        for document in read.documents:
            parsed = read_documents([document])
            problems += parsed.problems
            declared += [DeclaredDocuments(policy, document) for policy in parsed.policies]
        yield from map(str, problems)
        if [_canonical(each.policy) for each in declared] != [
            _canonical(each.policy) for each in some
        ]:
            yield "the written policies are read as others"
        for check, problem in lint(declared, cluster):
            # Only DNS that was seen is allowed; other namespaces are not this one's concern.
            if check not in (UNISOLATED, NO_DNS):
                yield str(problem)


def _canonical(policy: Policy) -> Policy:
    """Return it with the requirements of selectors in order."""

    def ordered(selector: Selector | None) -> Selector | None:
        return selector and Selector(tuple(sorted(selector.requirements)))

    def rules(given: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return given and tuple(
            rule._replace(
                peers=tuple(
                    PodPeer(ordered(peer.namespaces), ordered(peer.pods) or Selector())
                    if isinstance(peer, PodPeer)
                    else peer
                    for peer in rule.peers or ()
                )
                or None
            )
            for rule in given
        )

    subject = policy.subject
    if isinstance(subject, PodSubject):
        subject = PodSubject(ordered(subject.namespaces), ordered(subject.pods) or Selector())
    return policy._replace(
        subject=subject, ingress=rules(policy.ingress), egress=rules(policy.egress)
    )


def _with_former(workloads: Workloads) -> ClusterModel:
    """Return the cluster with the pods that only the history knows."""
    members = [
        ClusterPod(pod, name.name) for name in workloads.names for pod in workloads.pods[name]
    ]
    cluster = workloads.cluster
    namespaces = [NamespaceModel(name, labels or ()) for name, labels in cluster.namespaces.items()]
    return ClusterModel(members, cluster.nodes, namespaces, cluster.services)

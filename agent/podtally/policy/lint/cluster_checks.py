# SPDX-License-Identifier: Apache-2.0
"""Selectors that mean nobody, and namespaces that nothing isolates: policies against a cluster."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from podtally.policy.cluster.model import ClusterModel, selectable_pods
from podtally.policy.endpoints import NON_POD_NAMESPACES, no_pods_in
from podtally.policy.explain.formatting import join_words
from podtally.policy.lint.findings import (
    SELECTS_NOTHING,
    UNISOLATED,
    DeclaredDocuments,
    LintFinding,
    finding,
    items,
)
from podtally.policy.lint.subsumption import is_contradictory
from podtally.policy.model import (
    ANY_PROTOCOL,
    DENY,
    EGRESS,
    EVERYTHING,
    INGRESS,
    NETWORK_TIER,
    SCTP,
    TCP,
    UDP,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    Rule,
    Selector,
)
from podtally.policy.problems import WARNING, Path, Problem
from podtally.policy.reference.matching import rules_of, selects_endpoint
from podtally.policy.reference.selectors import selects, selects_namespace

_PEERS = {INGRESS: "from", EGRESS: "to"}
_PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
_NEVER = "selects nothing: its requirements contradict each other"


_Asked = tuple[str, PodSubject | PodPeer]
_Class = tuple[object, object]


class LintCluster:
    """Whom selectors mean; pods that all selectors take for the same are looked at once."""

    def __init__(self, world: ClusterModel) -> None:
        self.namespaces = world.namespaces
        self.nodes = world.nodes
        self._pods: dict[str, dict[_Class, PolicyEndpoint]] = {}
        for pod in selectable_pods(world):
            self._pods.setdefault(pod.namespace, {})[_class_of(pod)] = pod
        self._bearers: dict[
            tuple[str, str, str], list[PolicyEndpoint]
        ] = {}  # by namespace and label
        self._vague: dict[str, list[PolicyEndpoint]] = {}  # of whom no labels are known
        for name, pods in self._pods.items():
            for pod in pods.values():
                if pod.labels is None:
                    self._vague.setdefault(name, []).append(pod)
                for label in pod.labels or ():
                    self._bearers.setdefault((name, *label), []).append(pod)
        self._answers: dict[_Asked, bool] = {}
        self._ports: dict[_Asked, frozenset[tuple[str, int]]] = {}

    def any_pod(self, policy: Policy, meant: PodSubject | PodPeer) -> bool:
        asked = _asked(policy, meant)
        if asked not in self._answers:
            self._answers[asked] = any(True for _ in self.selected(policy, meant))
        return self._answers[asked]

    def port_names(self, policy: Policy, meant: PodSubject | PodPeer) -> frozenset[tuple[str, int]]:
        """Return names and protocols."""
        asked = _asked(policy, meant)
        if asked not in self._ports:
            pods = self.selected(policy, meant)
            self._ports[asked] = frozenset(n[:2] for pod in pods for n in pod.ports or ())
        return self._ports[asked]

    def selected(self, policy: Policy, meant: PodSubject | PodPeer) -> Iterator[PolicyEndpoint]:
        """Also those of whom it is not known."""
        asked = policy._replace(subject=PodSubject(*meant))
        for name in self._spaces(policy, meant.namespaces):
            for pod in self._candidates(name, meant.pods):
                if selects_endpoint(asked, pod) is not False:
                    yield pod

    def _candidates(self, namespace: str, meant: Selector) -> Iterable[PolicyEndpoint]:
        """Return the pods of a namespace that may be selected: those with one of the labels."""
        fewest: Iterable[PolicyEndpoint] | None = None
        count = 0
        for wanted in meant.requirements:
            if wanted.operator != "In":
                continue
            lists = [self._bearers.get((namespace, wanted.key, v), []) for v in wanted.values]
            lists.append(self._vague.get(namespace, []))
            if fewest is None or sum(map(len, lists)) < count:
                fewest, count = chain(*lists), sum(map(len, lists))
        return self._pods.get(namespace, {}).values() if fewest is None else fewest

    def any_node(self, meant: Selector) -> bool:
        return any(selects(meant, node.node_labels) for node in self.nodes)

    def _spaces(self, policy: Policy, meant: Selector | None) -> Iterable[str]:
        if meant is None:
            return (policy.namespace,)
        named = self.namespaces.items()
        return (
            name for name, labels in named if selects_namespace(meant, name, labels) is not False
        )


def _class_of(pod: PolicyEndpoint) -> _Class:
    """Return what selectors and named ports see of a pod of a namespace."""
    return pod.labels, pod.ports


def _asked(policy: Policy, meant: PodSubject | PodPeer) -> _Asked:
    """The same for policies of all namespaces, if the selector is."""
    return ("" if meant.namespaces is not None else policy.namespace, meant)


def selector_findings(
    each: DeclaredDocuments, cluster: LintCluster | None
) -> Iterator[LintFinding]:
    policy, document = each
    subject = policy.subject
    if isinstance(subject, PodSubject):
        path: Path = ("spec", "podSelector" if policy.tier == NETWORK_TIER else "subject")
        why = _nobody(policy, subject, cluster)
        own = policy.namespace in NON_POD_NAMESPACES
        if own and (cluster is None or policy.namespace not in cluster.namespaces):
            yield finding(
                SELECTS_NOTHING, document, ("metadata", "namespace"), no_pods_in(policy.namespace)
            )
        elif why:
            yield finding(SELECTS_NOTHING, document, path, why)
    for direction in (INGRESS, EGRESS):
        for rule in rules_of(policy, direction) or ():
            for number, peer in enumerate(rule.peers or ()):
                why = _nobody(policy, peer, cluster)
                if why:
                    path = _peer_path(document.content, direction, rule.index, number)
                    yield finding(SELECTS_NOTHING, document, path, why)
            if cluster is not None:
                yield from _port_names(each, direction, rule, cluster)


def _nobody(policy: Policy, meant: Peer | PodSubject, cluster: LintCluster | None) -> str:
    """Why it selects nothing; "" if it does, or may."""
    if isinstance(meant, NodePeer):
        if is_contradictory(meant.nodes):
            return _NEVER
        lacks = cluster is not None and not cluster.any_node(meant.nodes)
        return "selects no node of the cluster" if lacks else ""
    return _no_pod(policy, meant, cluster) if isinstance(meant, PodPeer | PodSubject) else ""


def _no_pod(policy: Policy, meant: PodPeer | PodSubject, cluster: LintCluster | None) -> str:
    if is_contradictory(meant.pods) or is_contradictory(meant.namespaces or EVERYTHING):
        return _NEVER
    if cluster is None or cluster.any_pod(policy, meant):
        return ""
    if meant.pods == EVERYTHING and meant.namespaces == EVERYTHING:
        return ""  # whoever comes
    if meant.namespaces is None and policy.namespace not in cluster.namespaces:
        return f"selects no pod: the cluster has no namespace {policy.namespace}"
    if meant.namespaces is None and meant.pods == EVERYTHING:
        return ""
    return "selects no pod of the cluster"


def _port_names(
    each: DeclaredDocuments, direction: str, rule: Rule, cluster: LintCluster
) -> Iterator[LintFinding]:
    """Names are the destination's: in ingress whom the policy selects, in egress anybody's."""
    policy, document = each
    named = [port for port in rule.ports or () if port.name]
    if not named or not isinstance(policy.subject, PodSubject):
        return
    subject = policy.subject if direction == INGRESS else PodSubject(EVERYTHING)
    known = cluster.port_names(policy, subject)
    for port in named:
        others = sorted(protocol for name, protocol in known if name == port.name)
        if port.protocol in others or (others and port.protocol == ANY_PROTOCOL):
            continue
        whose = "that the policy selects" if direction == INGRESS else "of the cluster"
        message = f"no pod {whose} calls a port {port.name}"
        if others:
            there = join_words([_PROTOCOLS[each] for each in others], "and")
            written = _PROTOCOLS[port.protocol]
            message = f"port {port.name} is {there} there, and this rule is for {written}"
        yield finding(SELECTS_NOTHING, document, ("spec", direction, rule.index), message)


def unisolated_findings(
    policies: Sequence[Policy], world: ClusterModel, cluster: LintCluster
) -> Iterator[LintFinding]:
    spaces: dict[str, list[PolicyEndpoint]] = {}
    for pod in selectable_pods(world):
        spaces.setdefault(pod.namespace, []).append(pod)
    isolated = {each: _isolated(policies, each, cluster) for each in (INGRESS, EGRESS)}
    for name, pods in sorted(spaces.items()):
        for direction, classes in isolated.items():
            free = [pod.name for pod in pods if (name, _class_of(pod)) not in classes]
            if free:
                count = f"{len(free)} of {len(pods)} pods"
                message = f"{count} not isolated in {direction}: {join_words(sorted(free), 'and')}"
                problem = Problem("", 0, f"Namespace {name}", "", message, WARNING)
                yield LintFinding(UNISOLATED, problem)


def _isolated(
    policies: Sequence[Policy], direction: str, cluster: LintCluster
) -> set[tuple[str, _Class]]:
    """Return the pods that a NetworkPolicy isolates, or a rule that denies them all other pods."""
    found: set[tuple[str, _Class]] = set()
    asked: set[_Asked] = set()  # policies of the same subject are asked once
    for policy in policies:
        subject = policy.subject
        if not isinstance(subject, PodSubject) or not _isolates(policy, direction):
            continue
        if _asked(policy, subject) not in asked:
            asked.add(_asked(policy, subject))
            for pod in cluster.selected(policy, subject):
                if selects_endpoint(policy, pod):
                    found.add((pod.namespace, _class_of(pod)))
    return found


def _isolates(policy: Policy, direction: str) -> bool:
    rules = rules_of(policy, direction)
    if policy.tier == NETWORK_TIER:
        return rules is not None
    return any(map(_denies_all, rules or ()))


def _denies_all(rule: Rule) -> bool:
    return (
        rule.action == DENY
        and rule.ports is None
        and PodPeer(EVERYTHING, EVERYTHING) in (rule.peers or ())
    )


def _peer_path(content: dict[str, Any], direction: str, rule: int, number: int) -> Path:
    """Of the peer as it is written: one that has several networks means several."""
    path: Path = ("spec", direction, rule, _PEERS[direction])
    for index, peer in enumerate(items(content, *path)):
        networks = len(items(peer, "networks"))
        if number < max(networks, 1):
            return (*path, index, "networks", number) if networks else (*path, index)
        number -= max(networks, 1)
    return path

# SPDX-License-Identifier: Apache-2.0
"""Checks against a cluster: selectors that match nothing, namespaces that nothing isolates."""

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


_SelectorKey = tuple[str, PodSubject | PodPeer]
_Class = tuple[object, object]


class LintCluster:
    """Finds the pods that selectors select; pods with equal labels and ports count once."""

    def __init__(self, model: ClusterModel) -> None:
        self.namespaces = model.namespaces
        self.nodes = model.nodes
        self._pods: dict[str, dict[_Class, PolicyEndpoint]] = {}
        for pod in selectable_pods(model):
            self._pods.setdefault(pod.namespace, {})[_class_of(pod)] = pod
        self._by_label: dict[
            tuple[str, str, str], list[PolicyEndpoint]
        ] = {}  # by namespace and label
        self._unlabelled: dict[str, list[PolicyEndpoint]] = {}  # pods with unknown labels
        for name, pods in self._pods.items():
            for pod in pods.values():
                if pod.labels is None:
                    self._unlabelled.setdefault(name, []).append(pod)
                for label in pod.labels or ():
                    self._by_label.setdefault((name, *label), []).append(pod)
        self._answers: dict[_SelectorKey, bool] = {}
        self._ports: dict[_SelectorKey, frozenset[tuple[str, int]]] = {}

    def any_pod(self, policy: Policy, selector: PodSubject | PodPeer) -> bool:
        key = _selector_key(policy, selector)
        if key not in self._answers:
            self._answers[key] = any(True for _ in self.selected(policy, selector))
        return self._answers[key]

    def port_names(
        self, policy: Policy, selector: PodSubject | PodPeer
    ) -> frozenset[tuple[str, int]]:
        """Return names and protocols."""
        key = _selector_key(policy, selector)
        if key not in self._ports:
            pods = self.selected(policy, selector)
            self._ports[key] = frozenset(n[:2] for pod in pods for n in pod.ports or ())
        return self._ports[key]

    def selected(self, policy: Policy, selector: PodSubject | PodPeer) -> Iterator[PolicyEndpoint]:
        """Yield the selected pods, including those that may be selected."""
        key = policy._replace(subject=PodSubject(*selector))
        for name in self._namespaces(policy, selector.namespaces):
            for pod in self._candidates(name, selector.pods):
                if selects_endpoint(key, pod) is not False:
                    yield pod

    def _candidates(self, namespace: str, selector: Selector) -> Iterable[PolicyEndpoint]:
        """Return the pods of a namespace that have one of the selector's labels."""
        fewest: Iterable[PolicyEndpoint] | None = None
        count = 0
        for wanted in selector.requirements:
            if wanted.operator != "In":
                continue
            lists = [self._by_label.get((namespace, wanted.key, v), []) for v in wanted.values]
            lists.append(self._unlabelled.get(namespace, []))
            if fewest is None or sum(map(len, lists)) < count:
                fewest, count = chain(*lists), sum(map(len, lists))
        return self._pods.get(namespace, {}).values() if fewest is None else fewest

    def any_node(self, selector: Selector) -> bool:
        return any(selects(selector, node.node_labels) for node in self.nodes)

    def _namespaces(self, policy: Policy, selector: Selector | None) -> Iterable[str]:
        if selector is None:
            return (policy.namespace,)
        named = self.namespaces.items()
        return (
            name for name, labels in named if selects_namespace(selector, name, labels) is not False
        )


def _class_of(pod: PolicyEndpoint) -> _Class:
    """Return what selectors and named ports of a namespace distinguish pods by."""
    return pod.labels, pod.ports


def _selector_key(policy: Policy, selector: PodSubject | PodPeer) -> _SelectorKey:
    """Return a key for the selector; the namespace matters only without a namespaceSelector."""
    return ("" if selector.namespaces is not None else policy.namespace, selector)


def selector_findings(
    each: DeclaredDocuments, cluster: LintCluster | None
) -> Iterator[LintFinding]:
    policy, document = each
    subject = policy.subject
    if isinstance(subject, PodSubject):
        path: Path = ("spec", "podSelector" if policy.tier == NETWORK_TIER else "subject")
        why = _why_nothing(policy, subject, cluster)
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
                why = _why_nothing(policy, peer, cluster)
                if why:
                    path = _peer_path(document.content, direction, rule.index, number)
                    yield finding(SELECTS_NOTHING, document, path, why)
            if cluster is not None:
                yield from _port_names(each, direction, rule, cluster)


def _why_nothing(policy: Policy, selector: Peer | PodSubject, cluster: LintCluster | None) -> str:
    """Return why it selects nothing; "" if it selects something, or may."""
    if isinstance(selector, NodePeer):
        if is_contradictory(selector.nodes):
            return _NEVER
        lacks = cluster is not None and not cluster.any_node(selector.nodes)
        return "selects no node of the cluster" if lacks else ""
    return _no_pod(policy, selector, cluster) if isinstance(selector, PodPeer | PodSubject) else ""


def _no_pod(policy: Policy, selector: PodPeer | PodSubject, cluster: LintCluster | None) -> str:
    if is_contradictory(selector.pods) or is_contradictory(selector.namespaces or EVERYTHING):
        return _NEVER
    if cluster is None or cluster.any_pod(policy, selector):
        return ""
    if selector.pods == EVERYTHING and selector.namespaces == EVERYTHING:
        return ""  # future pods
    if selector.namespaces is None and policy.namespace not in cluster.namespaces:
        return f"selects no pod: the cluster has no namespace {policy.namespace}"
    if selector.namespaces is None and selector.pods == EVERYTHING:
        return ""
    return "selects no pod of the cluster"


def _port_names(
    each: DeclaredDocuments, direction: str, rule: Rule, cluster: LintCluster
) -> Iterator[LintFinding]:
    """Check named ports: those of the selected pods for ingress, of any pod for egress."""
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
        scope = "that the policy selects" if direction == INGRESS else "of the cluster"
        message = f"no pod {scope} has a port named {port.name}"
        if others:
            there = join_words([_PROTOCOLS[each] for each in others], "and")
            written = _PROTOCOLS[port.protocol]
            message = f"port {port.name} is {there}, but this rule is for {written}"
        yield finding(SELECTS_NOTHING, document, ("spec", direction, rule.index), message)


def unisolated_findings(
    policies: Sequence[Policy], model: ClusterModel, cluster: LintCluster
) -> Iterator[LintFinding]:
    spaces: dict[str, list[PolicyEndpoint]] = {}
    for pod in selectable_pods(model):
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
    key: set[_SelectorKey] = set()  # policies of the same subject are evaluated once
    for policy in policies:
        subject = policy.subject
        if not isinstance(subject, PodSubject) or not _isolates(policy, direction):
            continue
        if _selector_key(policy, subject) not in key:
            key.add(_selector_key(policy, subject))
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
    """Return the path of the peer as written: one with several networks gives several peers."""
    path: Path = ("spec", direction, rule, _PEERS[direction])
    for index, peer in enumerate(items(content, *path)):
        networks = len(items(peer, "networks"))
        if number < max(networks, 1):
            return (*path, index, "networks", number) if networks else (*path, index)
        number -= max(networks, 1)
    return path

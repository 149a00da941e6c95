# SPDX-License-Identifier: Apache-2.0
"""A small cluster, conversations in it, and the policies that are suggested for them."""

from collections.abc import Iterable
from typing import Any

from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.explain.formatting import format_address
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.model import (
    HOST,
    NODE,
    POD,
    NamedPort,
    Network,
    Policy,
    PolicyEndpoint,
    Question,
    Selector,
)
from podtally.policy.reference.engine import Engine
from podtally.suggest.conversation import ObservedConversation
from podtally.suggest.difference import RuleChange, compare
from podtally.suggest.flows import Flow, FlowSums
from podtally.suggest.manifest import manifests
from podtally.suggest.proof import Proof, prove
from podtally.suggest.replay import known_names
from podtally.suggest.suggestion import NETWORK_POLICY, SuggestedPolicy, SuggestionMaker
from podtally.suggest.workloads import WorkloadName, Workloads

DAY = 86400.0
END = 1_800_000_000.0
WEEK = (END - 7 * DAY, END)


class SuggestWorld:
    """Pods are added first, then conversations, then ``suggest`` is called."""

    def __init__(self) -> None:
        self.members: list[ClusterPod] = []
        self.nodes: list[PolicyEndpoint] = []
        self.rows: list[ObservedConversation] = []
        self.own_selectors: dict[tuple[str, str], Selector] = {}  # of Deployments and others
        self.suggested: list[SuggestedPolicy] = []
        self.text = ""

    def node(self, name: str, address: str) -> None:
        ip = parse_address(address)
        assert ip is not None
        self.nodes.append(PolicyEndpoint(NODE, name=name, ips=(ip,), node=name, node_labels=()))

    def pods(
        self,
        workload: str,
        labels: dict[str, str],
        count: int = 2,
        ports: dict[str, int] | None = None,
        node: str = "",
    ) -> None:
        """Add pods of ``namespace/workload``."""
        for _ in range(count):
            number = len(self.members)
            self._add(workload, labels, f"10.99.{number >> 8}.{number & 255}", node)
            named = tuple(NamedPort(name, 6, port) for name, port in (ports or {}).items())
            last = self.members[-1]
            self.members[-1] = last._replace(endpoint=last.endpoint._replace(ports=named))

    def host_pod(self, workload: str, labels: dict[str, str], node: PolicyEndpoint) -> None:
        """Add a pod in the network of its node."""
        self._add(workload, labels, format_address(node.ips[0]), node.name)
        last = self.members[-1]
        self.members[-1] = last._replace(endpoint=last.endpoint._replace(host_network=True))

    def unit(self, name: str) -> None:
        """Add a systemd unit of the host, which is no pod."""
        ip = parse_address("198.18.0.1")
        assert ip is not None
        unit = PolicyEndpoint(HOST, "systemd", name, ips=(ip,), unit=name, host_network=True)
        self.members.append(ClusterPod(unit, name))

    def _add(self, workload: str, labels: dict[str, str], address: str, node: str) -> None:
        namespace, _, name = workload.partition("/")
        number = len(self.members)
        own = {**labels, "pod-template-hash": f"{number:x}"}
        ip = parse_address(address)
        assert ip is not None
        pod = PolicyEndpoint(
            POD,
            namespace,
            f"{name}-{number}",
            tuple(sorted(own.items())),
            ips=(ip,),
            node=node,
        )
        self.members.append(ClusterPod(pod, name))

    def seen(self, source: str, destination: str, port: int, **changes: Any) -> None:
        """Add what the source's end reported; an address is outside, a name without a slash a
        node.
        """
        namespace, _, workload = source.partition("/")
        peer_namespace, slash, peer = destination.partition("/")
        peer_kind = "pod" if slash else "external"
        if destination in {node.name for node in self.nodes}:
            peer_kind, peer_namespace, peer = "node", "", destination
        row = {
            "first": WEEK[0] + 60,
            "last": WEEK[1] - 60,
            "connections": 100,
            "bytes": 1_000_000,
            "peer_address": "" if slash else destination,
        }
        self.rows.append(
            ObservedConversation(
                **{
                    "namespace": namespace,
                    "workload": workload,
                    "direction": "egress",
                    "peer_kind": peer_kind,
                    "peer_namespace": peer_namespace if peer_kind == "pod" else "",
                    "peer_workload": peer,
                    "port": port,
                    **row,
                    **changes,
                }
            )
        )

    def cluster(self) -> ClusterModel:
        spaces = sorted({member.endpoint.namespace for member in self.members})
        named = [NamespaceModel(name, ()) for name in spaces]
        return ClusterModel(self.members, self.nodes, named, None, self.own_selectors)

    def suggest(
        self,
        subject: str = "",
        include: Iterable[str] = (),
        declared: tuple[Policy, ...] = (),
        networks: dict[str, list[Network]] | None = None,
        kind: str = NETWORK_POLICY,
    ) -> Proof:
        workloads = Workloads(self.cluster(), self.rows)
        sums = FlowSums(workloads, tuple(include))
        sums.add(self.rows)
        self.flows: list[Flow] = sums.flows()
        wanted = [name for name in workloads.names if str(name).startswith(subject)]
        maker = SuggestionMaker(workloads, WEEK, networks or {}, kind=kind)
        self.suggested = maker.suggest(self.flows, wanted)
        self.text = manifests(self.suggested, WEEK)
        self.changes: list[RuleChange] = compare(self.suggested, declared, self.flows, workloads)
        return prove(self.suggested, WEEK, self.flows, declared, workloads)

    def of(self, workload: str, direction: str) -> SuggestedPolicy:
        name = WorkloadName(*workload.split("/"))
        (found,) = (
            each
            for each in self.suggested
            if name in each.workloads and each.direction == direction
        )
        return found

    def verdict(
        self, source: str, destination: str, port: int, protocol: str = "TCP", domain: str = ""
    ) -> str:
        """Return what the suggestions say of a connection; the destination may be an address."""
        engine = Engine([each.policy for each in self.suggested])
        cluster = self.cluster()
        ends = []
        for text in (source, destination):
            namespace, slash, name = text.partition("/")
            if slash:
                pod = cluster.workload(namespace, name)
                assert pod is not None, text
                ends.append((pod, pod.ips[0]))
            else:
                ip = parse_address(text)
                assert ip is not None, text
                ends.append((cluster.at(ip), ip))
        (start, start_ip), (end, end_ip) = ends
        names = known_names(domain)
        question = Question(start, end, PROTOCOLS[protocol], port, start_ip, end_ip, names=names)
        return engine.judge(question).verdict

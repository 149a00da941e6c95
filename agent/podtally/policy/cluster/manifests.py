# SPDX-License-Identifier: Apache-2.0
"""Reads namespaces, nodes, pods and Services from manifests or a test case into a ClusterModel.

An unreadable object is reported and left out. Unknown fields are ignored: servers add new ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from podtally.kube.pods import KubePod, Life
from podtally.kube.schema import Controller, KubeStruct, Metadata, controller_of, labels_of
from podtally.kube.workloads import from_labels, of_pod
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.load.conversion import DEFAULT_NAMESPACE, PROTOCOLS, selector
from podtally.policy.load.documents import Document
from podtally.policy.load.parser import problem_of
from podtally.policy.model import NODE, POD, NamedPort, PolicyEndpoint, Selector
from podtally.policy.problems import Fault, Problem, field_of
from podtally.policy.schema.decoding import built_in_nulls, convert
from podtally.policy.schema.network import LabelSelector
from podtally.runtimes.model import Labels

T = TypeVar("T")

APPS = "apps/v1"
CONTROLLERS = ("Deployment", "StatefulSet", "DaemonSet")  # that have their pods' names
FINISHED_PHASES = ("Succeeded", "Failed")  # phases after which no container runs again
_NODE_ADDRESSES = ("InternalIP", "ExternalIP")
_NO_LIFE = Life(0, 0, 0, 0, 0, 0, False)


class ClusterDocuments(NamedTuple):
    model: ClusterModel
    problems: tuple[Problem, ...]


class _PortManifest(KubeStruct, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class _ContainerManifest(KubeStruct, frozen=True):
    ports: tuple[_PortManifest, ...] = ()
    restart_policy: str = ""


class _PodSpec(KubeStruct, frozen=True):
    node_name: str = ""
    host_network: bool = False
    containers: tuple[_ContainerManifest, ...] = ()
    init_containers: tuple[_ContainerManifest, ...] = ()


class _PodAddress(KubeStruct, frozen=True):
    ip: str = ""


class _PodStatus(KubeStruct, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[_PodAddress, ...] = msgspec.field(name="podIPs", default=())


class _PodManifest(KubeStruct, frozen=True):
    metadata: Metadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _NodeManifestAddress(KubeStruct, frozen=True):
    type: str = ""
    address: str = ""


class _NodeManifestStatus(KubeStruct, frozen=True):
    addresses: tuple[_NodeManifestAddress, ...] = ()


class _NodeManifest(KubeStruct, frozen=True):
    metadata: Metadata
    status: _NodeManifestStatus = _NodeManifestStatus()


class _NamespaceManifest(KubeStruct, frozen=True):
    metadata: Metadata


class _ServiceManifestSpec(KubeStruct, frozen=True):
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())


class _ServiceManifest(KubeStruct, frozen=True):
    metadata: Metadata
    spec: _ServiceManifestSpec = _ServiceManifestSpec()


class _ControllerSpec(KubeStruct, frozen=True):
    selector: LabelSelector = LabelSelector()


class _ControllerManifest(KubeStruct, frozen=True):
    metadata: Metadata
    spec: _ControllerSpec = _ControllerSpec()


class _CasePort(msgspec.Struct, frozen=True):
    port: int
    protocol: str = "TCP"
    name: str = ""


class _CasePod(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    labels: dict[str, str] = {}
    ips: tuple[str, ...] = ()
    ports: tuple[_CasePort, ...] = ()
    node: str = ""
    host_network: bool = False
    phase: str = "Running"


class _CaseNode(msgspec.Struct, frozen=True):
    name: str
    ips: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class _CaseNamespace(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}


class _ClusterBuilder:
    """Collects the objects read so far."""

    def __init__(self) -> None:
        self.members: list[ClusterPod] = []
        self.nodes: list[PolicyEndpoint] = []
        self.namespaces: list[NamespaceModel] = []
        self.services: dict[str, tuple[int, ...]] = {}
        self.selectors: dict[tuple[str, str], Selector] = {}

    def model(self) -> ClusterModel:
        return ClusterModel(
            self.members, self.nodes, self.namespaces, self.services, self.selectors
        )


def from_documents(documents: Iterable[Document]) -> ClusterDocuments:
    """Read Namespaces, Nodes, Pods, Services, and the selectors of CONTROLLERS; other kinds are
    ignored.
    """
    found, problems = _ClusterBuilder(), []
    for document in documents:
        fault = None
        if document.api_version == "v1":
            fault = _take(document, found)
        elif document.api_version == APPS and document.kind in CONTROLLERS:
            fault = _take_controller(document, found)
        if fault is not None:
            problems.append(problem_of(document, fault))
    return ClusterDocuments(found.model(), tuple(problems))


def from_case(case: Mapping[str, Any], source: str, subject: str) -> ClusterDocuments:
    """Read the ``namespaces``, ``nodes`` and ``pods`` of a test case (docs/policy.md)."""
    found, problems = _ClusterBuilder(), []
    for index, each in _items(case, "namespaces", _CaseNamespace):
        if isinstance(each, Fault):
            problems.append(_problem(source, subject, "namespaces", index, each))
        else:
            found.namespaces.append(NamespaceModel(each.name, _labels(each.labels)))
    for index, item in _items(case, "nodes", _CaseNode):
        node = item if isinstance(item, Fault) else _case_node(item)
        if isinstance(node, Fault):
            problems.append(_problem(source, subject, "nodes", index, node))
        else:
            found.nodes.append(node)
    for index, entry in _items(case, "pods", _CasePod):
        pod = entry if isinstance(entry, Fault) else _case_pod(entry)
        if isinstance(pod, Fault):
            problems.append(_problem(source, subject, "pods", index, pod))
        else:
            found.members.append(pod)
    return ClusterDocuments(found.model(), tuple(problems))


def _take(document: Document, found: _ClusterBuilder) -> Fault | None:
    if document.kind == "Namespace":
        namespace = _converted(document.content, _NamespaceManifest)
        if isinstance(namespace, Fault):
            return namespace
        found.namespaces.append(
            NamespaceModel(namespace.metadata.name, labels_of(namespace.metadata))
        )
    elif document.kind == "Node":
        node = _converted(document.content, _NodeManifest)
        if isinstance(node, Fault):
            return node
        found.nodes.append(_node(node))
    elif document.kind == "Pod":
        pod = _converted(document.content, _PodManifest)
        member = pod if isinstance(pod, Fault) else _member(pod)
        if isinstance(member, Fault):
            return member
        found.members.append(member)
    elif document.kind == "Service":
        service = _converted(document.content, _ServiceManifest)
        if isinstance(service, Fault):
            return service
        meta, given = service.metadata, service.spec.cluster_ips or (service.spec.cluster_ip,)
        name = f"{meta.namespace or DEFAULT_NAMESPACE}/{meta.name}"
        found.services[name] = tuple(ip for ip in map(parse_address, given) if ip is not None)
    return None


def _take_controller(document: Document, found: _ClusterBuilder) -> Fault | None:
    controller = _converted(document.content, _ControllerManifest)
    if isinstance(controller, Fault):
        return controller
    meta = controller.metadata
    own = selector(controller.spec.selector)
    found.selectors[meta.namespace or DEFAULT_NAMESPACE, meta.name] = own
    return None


def _member(pod: _PodManifest) -> ClusterPod | Fault:
    meta, spec, status = pod.metadata, pod.spec, pod.status
    texts = [address.ip for address in status.pod_ips] or [status.pod_ip]
    ips = _addresses(filter(None, texts))
    if isinstance(ips, Fault):
        return ips._replace(path=("status", "podIPs"))
    # Sidecars' ports count as well (KEP-753; podutil.FindPort).
    sidecars = (c for c in spec.init_containers if c.restart_policy == "Always")
    written = [port for container in (*spec.containers, *sidecars) for port in container.ports]
    endpoint = PolicyEndpoint(
        POD,
        meta.namespace or DEFAULT_NAMESPACE,
        meta.name,
        labels_of(meta),
        ips=ips,
        ports=_named((port.name, port.protocol, port.container_port) for port in written),
        node=spec.node_name,
        host_network=spec.host_network,
    )
    return ClusterPod(
        endpoint, _workload(endpoint, controller_of(meta)), status.phase in FINISHED_PHASES
    )


def _node(node: _NodeManifest) -> PolicyEndpoint:
    texts = [a.address for a in node.status.addresses if a.type in _NODE_ADDRESSES]
    ips = tuple(ip for ip in map(parse_address, texts) if ip is not None)
    name = node.metadata.name
    return PolicyEndpoint(NODE, name=name, ips=ips, node=name, node_labels=labels_of(node.metadata))


def _case_node(node: _CaseNode) -> PolicyEndpoint | Fault:
    ips = _addresses(node.ips)
    if isinstance(ips, Fault):
        return ips
    labels = _labels(node.labels)
    return PolicyEndpoint(NODE, name=node.name, ips=ips, node=node.name, node_labels=labels)


def _case_pod(pod: _CasePod) -> ClusterPod | Fault:
    ips = _addresses(pod.ips)
    if isinstance(ips, Fault):
        return ips
    endpoint = PolicyEndpoint(
        POD,
        pod.namespace,
        pod.name,
        _labels(pod.labels),
        ips=ips,
        ports=_named((port.name, port.protocol, port.port) for port in pod.ports),
        node=pod.node,
        host_network=pod.host_network,
    )
    return ClusterPod(endpoint, _workload(endpoint, None), pod.phase in FINISHED_PHASES)


def _workload(pod: PolicyEndpoint, controller: Controller | None) -> str:
    labels = pod.labels or ()
    if controller is None:
        workload = from_labels(pod.name, labels)
        return workload.name if workload else ""
    kept = KubePod(pod.namespace, pod.name, "", pod.node, labels, controller, False, "",
                   pod.host_network, (), _NO_LIFE)  # fmt: skip
    return of_pod(kept, {}).name


def _named(ports: Iterable[tuple[str, str, int]]) -> tuple[NamedPort, ...]:
    return tuple(
        NamedPort(name, PROTOCOLS[protocol], number)
        for name, protocol, number in ports
        if name and protocol in PROTOCOLS
    )


def _addresses(texts: Iterable[str]) -> tuple[int, ...] | Fault:
    found: list[int] = []
    for text in texts:
        address = parse_address(text)
        if address is None:
            return Fault(("ips",), f"invalid address {text[:64]!r}")
        found.append(address)
    return tuple(found)


def _labels(given: Mapping[str, str]) -> Labels:
    return tuple(sorted(given.items()))


def _items(case: Mapping[str, Any], name: str, shape: type[T]) -> Iterator[tuple[int, T | Fault]]:
    given = case.get(name)
    if given is not None and not isinstance(given, list):
        yield -1, Fault((), "must be a list")
        return
    for index, item in enumerate(given or ()):
        yield index, _converted(item, shape)


def _converted(value: Any, shape: type[T]) -> T | Fault:
    try:
        return convert(built_in_nulls(value), shape)
    except RecursionError:
        return Fault((), "nested too deeply; flatten it")


def _problem(source: str, subject: str, name: str, index: int, fault: Fault) -> Problem:
    path = (name, *(() if index < 0 else (index,)), *fault.path)
    return Problem(source, 0, subject, field_of(path), fault.message)

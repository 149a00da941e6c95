# SPDX-License-Identifier: Apache-2.0
"""The directory: reports of the sources, and the names that result."""

from dataclasses import replace

import msgspec
import pytest

from podtally.config import StaticEndpoint
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS
from podtally.identity.interface_endpoints import InterfaceEndpoint
from podtally.identity.local.directory import (
    Directory,
)
from podtally.identity.local.endpoint_names import SETTLE_NS
from podtally.identity.model import UNKNOWN, UNKNOWN_ENDPOINT, Endpoint, Owner, host_owner
from podtally.identity.name_table import UNRESOLVED
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.identity.directory_support import (
    NAMED,
    PATIENCE,
    POD,
    START,
    UID,
    directory,
    endpoint,
    owner,
)
from tests.unit.kube_json import Json, event, pod
from tests.unit.rows import NETWORKS, SECOND

WEB = Endpoint("shop", "web-0", "web", "Deployment", "static", ports=())
DOCKER = CgroupOwner("docker", "0123456789ab", "0123456789ab" + "0" * 52)


def test_the_stronger_source_wins() -> None:
    static = StaticEndpoint("web-0", "shop", "web", "Deployment", interface="veth7")
    for made, chosen in ((directory(), None), (directory(static), WEB)):
        assert endpoint(made) == (chosen or UNKNOWN_ENDPOINT._replace(final=False))
        made.process_found(7, DOCKER)
        name = "0123456789ab"
        container = Endpoint("docker", name, name, "Docker", "docker", ports=())
        assert endpoint(made) == (chosen or container._replace(final=False))
        assert endpoint(made, at_ns=START + SETTLE_NS) == (chosen or container)
        made.netns_named(7, "blue")
        netns = Endpoint("netns", "blue", "blue", "Netns", "netns", ports=())
        assert endpoint(made) == (chosen or netns)
        made.process_found(7, POD)
        made.named(UID, NAMED)
        assert endpoint(made) == (chosen or NAMED)


@pytest.mark.parametrize(
    ("what", "entry"),
    [
        ("interface", StaticEndpoint("a", interface="veth7")),
        ("netns", StaticEndpoint("a", netns="blue")),
        ("address", StaticEndpoint("a", address="10.99.0.7")),
        ("IPv6 address", StaticEndpoint("a", address="2001:DB8:0::7")),
    ],
)
def test_static_entries_are_found_by(what: str, entry: StaticEndpoint) -> None:
    made = directory(entry)
    made.netns_named(7, "blue")
    made.appeared(9, "veth9", "green", host=False, at_ns=START)
    assert endpoint(made) == Endpoint("static", "a", "a", "Static", "static", ports=()), what
    assert endpoint(made, 9).name == "green", what
    assert not endpoint(made).host_network


def test_a_static_entry_for_an_interface_of_the_host_is_in_its_network() -> None:
    made = directory(StaticEndpoint("uplink", interface="eth0"))
    made.appeared(2, "eth0", "", host=True, at_ns=START)
    assert endpoint(made, 2).name == "uplink"
    assert endpoint(made, 2).host_network


@pytest.mark.parametrize("name", [f"cni-{UID}", UID, f"netns-{UID}"])
def test_generated_namespace_names_are_ignored(name: str) -> None:
    made = directory()
    made.netns_named(7, name)
    assert endpoint(made) == UNKNOWN_ENDPOINT._replace(final=False)
    assert endpoint(made, at_ns=START + PATIENCE) == UNKNOWN_ENDPOINT


def test_a_pod_waits_for_its_name_under_its_uid() -> None:
    made = directory()
    made.process_found(7, POD)
    unnamed = UNKNOWN_ENDPOINT._replace(source="pod", uid=UID)
    assert endpoint(made, at_ns=START + PATIENCE - 1) == unnamed._replace(final=False)
    assert not owner(made, "10.99.0.7").final
    assert endpoint(made, at_ns=START + PATIENCE) == unnamed
    assert made.unnamed() == [7]
    made.named(UID, NAMED)
    assert endpoint(made, at_ns=START + PATIENCE + 1) == NAMED
    assert owner(made, "10.99.0.7") == Owner(
        "pod", "shop", "web-0", "web", "node", "StatefulSet", uid=UID, labels=NAMED.labels
    )
    assert made.unnamed() == []


def test_names_of_the_node_count_when_the_api_does_not_answer_in_time() -> None:
    made = directory(cluster=ClusterState("node1"))
    made.process_found(7, POD)
    made.named(UID, NAMED)
    assert endpoint(made) == NAMED._replace(final=False, node="node1")
    assert endpoint(made, at_ns=START + PATIENCE) == NAMED._replace(node="node1")
    assert owner(made, "10.99.0.7").node == "node1"


def test_a_name_of_the_api_outlives_it() -> None:
    cluster = ClusterState("node1")
    made = directory(cluster=cluster)
    made.process_found(7, POD)
    made.refresh(START)
    clocks = Clocks(START, START)
    (pods,) = (resource for resource in RESOURCES if resource.name == "pods")
    result = pods.decode_event(event("ADDED", pod("web-0", UID, spec__nodeName="node1")))
    made.apply_api_event(Changed("pods", result.type, result.object, START), clocks)
    found = endpoint(made)
    assert (found.namespace, found.name, found.source) == ("shop", "web-0", "kubernetes")
    assert (found.node, found.ports) == ("node1", ())
    assert owner(made, "10.99.0.7").ports == ()
    again = Directory((), NETWORKS, PATIENCE, ClusterState("node1"))
    again.restore(made.interface_endpoints(), START + 60 * SECOND)
    assert endpoint(again, at_ns=START + 61 * SECOND) == found


def test_addresses_of_pod_networks_wait_for_the_api() -> None:
    cluster = ClusterState("node1")
    made = directory(cluster=cluster)
    (nodes,) = (resource for resource in RESOURCES if resource.name == "nodes")
    node = {
        "metadata": {"name": "node2", "uid": "n2"},
        "spec": {"podCIDRs": ["10.99.64.0/24", "2001:db8:99::/64"]},
    }
    assert owner(made, "10.99.64.9") == UNRESOLVED
    result = nodes.decode_event(event("ADDED", node))
    made.apply_api_event(Changed("nodes", result.type, result.object, START), Clocks(START, START))
    made.refresh(START)
    for address in ("10.99.64.9", "2001:db8:99::9"):
        assert owner(made, address) == Owner("unknown", "", "", "", "cluster", final=False)
    assert owner(made, "10.99.65.9") == UNRESOLVED


def synced(made: Directory) -> None:
    for resource in ("pods", "services", "nodes"):
        made.apply_api_event(ObjectPage(resource, (), True, True, START), Clocks(START, START))
    made.refresh(START + 1)


def test_private_addresses_wait_for_the_first_lists() -> None:
    """An agent without a cluster, or with all objects, takes the pod as the workload."""
    made = directory(cluster=ClusterState("node1"))
    made.refresh(START)
    for address in ("10.99.64.9", "172.16.0.1", "192.168.7.7", "fd00::1"):
        assert owner(made, address) == UNRESOLVED
        assert owner(directory(), address).scope == "private"
    for address, scope in (("8.8.8.8", "internet"), ("203.0.113.9", "private")):
        assert owner(made, address).kind == "external", scope
    synced(made)
    for address in ("10.99.64.9", "fd00::1"):
        assert owner(made, address).scope == "private"


def test_a_workload_is_unknown_until_the_first_lists() -> None:
    """The logs have only a name, perhaps of a ReplicaSet's pod; the checkpoint may know more."""
    logs = Endpoint("shop", "web-5d9c-x7", "web-5d9c-x7", "Pod", "pod logs", uid=UID)
    made = directory(cluster=ClusterState("node1"))
    made.process_found(7, POD)
    made.named(UID, logs)
    result = endpoint(made, at_ns=START + PATIENCE)
    assert (result.name, result.workload, result.workload_kind) == ("web-5d9c-x7", UNKNOWN, UNKNOWN)
    alone = directory()
    alone.process_found(7, POD)
    alone.named(UID, logs)
    assert endpoint(alone, at_ns=START + PATIENCE).workload == "web-5d9c-x7"
    api = NAMED._replace(source="kubernetes", workload="web", workload_kind="Deployment")
    again = Directory((), NETWORKS, PATIENCE, ClusterState("node1"))
    (resident,) = made.interface_endpoints()
    again.restore([replace(resident, pod_name=api)], START + PATIENCE)
    again.named(UID, logs)
    assert endpoint(again, at_ns=START + 3 * PATIENCE).workload_kind == "Deployment"


def test_a_container_has_the_name_of_its_engine() -> None:
    made = directory()
    made.process_found(7, DOCKER)
    called = Endpoint("docker", "db", "db", "Docker", "docker", (("app", "db"),))
    made.named(DOCKER.container, called)
    assert endpoint(made) == called._replace(ports=())


def test_the_host_is_an_endpoint_and_so_are_its_sockets() -> None:
    made = directory()
    made.appeared(2, "eth0", "", host=True, at_ns=START)
    made.host_addresses(["198.18.0.1"])
    host = Endpoint("host", "host", "host", "Host", "host", ports=(), host_network=True)
    assert endpoint(made, 2) == host
    assert owner(made, "198.18.0.1") == Owner("host", "", "host", "host", "node", ports=())
    made.socket_found(4357, CgroupOwner("systemd", "ssh.service"), START)
    made.socket_found(4358, POD, START)
    made.socket_found(1, None, START)
    made.refresh(START + 1)
    sockets = made.names.sockets
    assert sockets[4357] == Endpoint(
        "systemd", "ssh.service", "ssh.service", "Systemd", "systemd", ports=(), host_network=True
    )
    assert sockets[1] == made.names.endpoint(2)
    assert not sockets[4358].final
    made.named(UID, NAMED)
    made.refresh(START + 2)
    assert made.names.sockets[4358] == NAMED._replace(host_network=True)


def result(made: Directory, resource: str, item: Json) -> None:
    (known,) = (each for each in RESOURCES if each.name == resource)
    event_ = known.decode_event(event("ADDED", item))
    made.apply_api_event(Changed(resource, event_.type, event_.object, START), Clocks(START, START))


def test_the_host_has_the_name_of_its_node_from_all_sources() -> None:
    static = StaticEndpoint("db", "shop", address="10.99.0.9")
    made = directory(static, cluster=ClusterState("node1"))
    made.appeared(2, "eth0", "", host=True, at_ns=START)
    made.host_addresses(["198.18.0.1"])
    assert endpoint(made, 2).node == "node1"
    assert owner(made, "198.18.0.1") == host_owner("node1")
    assert owner(made, "10.99.0.9")[6:] == ("node1", "", (), True, ())
    addresses = [{"type": "InternalIP", "address": "198.18.0.1"}]
    result(
        made,
        "nodes",
        {"metadata": {"name": "node1", "uid": "n1"}, "status": {"addresses": addresses}},
    )
    made.refresh(START + 1)
    assert owner(made, "198.18.0.1") == host_owner("node1")
    made.socket_found(4357, CgroupOwner("systemd", "ssh.service"), START)
    made.refresh(START + 2)
    assert made.names.sockets[4357].node == "node1"


def test_a_pods_host_network_is_as_in_the_api() -> None:
    made = directory(cluster=ClusterState("node1"))
    made.socket_found(4358, POD, START)
    result(made, "pods", pod("web-0", UID, spec__nodeName="node1"))
    made.refresh(START)
    assert not made.names.sockets[4358].host_network
    result(made, "pods", pod("web-0", UID, spec__nodeName="node1", spec__hostNetwork=True))
    made.refresh(START + 1)
    assert made.names.sockets[4358].host_network


def test_a_pod_without_a_name_is_on_this_node() -> None:
    made = directory(cluster=ClusterState("node1"))
    made.process_found(7, POD)
    found = endpoint(made, at_ns=START + PATIENCE)
    assert found == UNKNOWN_ENDPOINT._replace(source="pod", uid=UID, node="node1")
    assert found.ports is None


def test_cluster_labels_are_unknown_without_a_cluster() -> None:
    assert directory().cluster_labels() is NO_CLUSTER_LABELS
    assert not NO_CLUSTER_LABELS.known
    assert NO_CLUSTER_LABELS.namespace_labels("shop") is None
    assert NO_CLUSTER_LABELS.node_labels("node1") is None
    made = directory(cluster=ClusterState("node1"))
    before = made.cluster_labels()
    assert (before.node_name, before.known) == ("node1", True)
    made.refresh(START)
    assert made.cluster_labels() is before
    result(made, "namespaces", {"metadata": {"name": "shop", "labels": {"team": "pay"}}})
    assert made.cluster_labels().namespace_labels("shop") == (("team", "pay"),)


def test_a_name_of_an_older_checkpoint_is_of_this_node() -> None:
    """Written before an Endpoint had a node and ports."""
    written = (
        b'[{"ifindex":7,"interface":"veth7","owner":["pod","%(uid)s",""],'
        b'"pod_name":["shop","web-0","web","StatefulSet","kubernetes",[["app","web"]],"%(uid)s",true],'
        b'"addresses":[["10.99.0.7",3]]}]' % {b"uid": UID.encode()}
    )
    residents = msgspec.json.decode(written, type=list[InterfaceEndpoint])
    made = Directory((), NETWORKS, PATIENCE, ClusterState("node1"))
    made.restore(residents, START)
    found = endpoint(made, at_ns=START + PATIENCE)
    assert found == NAMED._replace(source="kubernetes", node="node1")
    assert owner(made, "10.99.0.7").node == "node1"
    kept = msgspec.json.decode(
        msgspec.json.encode(made.interface_endpoints()), type=list[InterfaceEndpoint]
    )
    assert kept == made.interface_endpoints()

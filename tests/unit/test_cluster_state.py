# SPDX-License-Identifier: Apache-2.0
"""Names, scopes and backends from the API's objects, in any order."""

from typing import Any

from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.model import FOREVER, Claim, Owner, host_owner, owner_of
from podtally.identity.services import BackendAddress, CommonBackend, common_backend, parse_address
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from tests.unit.kube_json import Json, Run, controlled, list_of, pod, stamp, status

DECODERS = {resource.name: resource for resource in RESOURCES}
SECOND = 1_000_000_000
WALL = 1_800_000_000
BOOT = 5000


def ns(at: float) -> int:
    return round((at + BOOT) * SECOND)


class Api:
    """Feeds objects to the ClusterState of the node ``here``; times in seconds from ``WALL``."""

    def __init__(self) -> None:
        self.cluster = ClusterState("here")
        self.claims: dict[tuple[str, str], list[Claim]] = {}

    def show(self, resource: str, *items: Json, at: float = 0.0) -> None:
        self.pages(resource, [items], at)

    def pages(self, resource: str, pages: list[tuple[Json, ...]], at: float) -> None:
        for number, items in enumerate(pages):
            objects = DECODERS[resource].decode_list(list_of(*items)).objects
            last = number == len(pages) - 1
            page = ObjectPage(resource, objects, number == 0, last, ns(at))
            self.cluster.apply(page, self.clocks(at))
        self.settle(at)

    def tell(self, resource: str, kind: str, item: Json, at: float) -> None:
        (decoded,) = DECODERS[resource].decode_list(list_of(item)).objects
        self.cluster.apply(Changed(resource, kind, decoded, ns(at)), self.clocks(at))
        self.settle(at)

    def settle(self, at: float) -> None:
        self.cluster.settle(self.clocks(at))
        for key, claims in self.cluster.changed_claims():
            self.claims[key] = list(claims)

    def clocks(self, at: float) -> Clocks:
        return Clocks(round((WALL + at) * SECOND), ns(at))

    def owner(self, kind: str, uid: str) -> Owner:
        return self.claims[kind, uid][-1].owner


def node(name: str, address: str, zone: str = "") -> Json:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    meta = {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": stamp(WALL)}
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": meta, "status": {"addresses": addresses}}


def runs(name: str, address: str, on: str = "here", **more: Any) -> Json:
    run = Run(WALL - 300, WALL - 299, WALL - 298)
    return pod(name, status=status(address, run), spec__nodeName=on, **more)


def service(name: str, address: str, ports: list[Json], created: float = 0.0) -> Json:
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    meta["creationTimestamp"] = str(stamp(WALL + created))
    return {"metadata": meta, "spec": {"clusterIPs": [address], "ports": ports}}


def piece(of: str, addresses: list[str], ports: list[Json]) -> Json:
    return {
        "metadata": {
            "name": f"{of}-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": ports,
    }


def packed(text: str) -> int:
    address = parse_address(text)
    assert address is not None
    return address


HTTP = [{"name": "http", "port": 80, "nodePort": 30080}]
MAIN = [{"name": "http", "port": 8080}]


def test_addresses_are_128_bits() -> None:
    assert parse_address("198.18.0.1") == 0xFFFF_C612_0001
    assert parse_address("2001:db8::1") == 0x2001_0DB8 << 96 | 1
    assert parse_address("node-1.example") is None


def test_scope_follows_the_zones_in_any_order() -> None:
    api = Api()
    api.show("pods", runs("a", "198.18.0.1"), runs("b", "198.18.0.2", on="there"))
    assert api.owner("pod", "uid-a").scope == "node"
    assert api.owner("pod", "uid-b").scope == "cluster"
    api.show("nodes", node("here", "198.18.9.1", "a"), node("there", "198.18.9.2", "b"))
    assert api.owner("pod", "uid-b").scope == "cross_zone"
    assert api.owner("node", "uid-there").scope == "cross_zone"
    api.tell("nodes", "MODIFIED", node("there", "198.18.9.2", "a"), 1.0)
    assert api.owner("pod", "uid-b").scope == "zone"
    api.tell("nodes", "MODIFIED", node("here", "198.18.9.1", "b"), 2.0)
    assert api.owner("pod", "uid-b").scope == "cross_zone"
    assert api.owner("pod", "uid-a").scope == "node"


def test_nodes_and_the_host() -> None:
    api = Api()
    api.show("nodes", node("here", "198.18.9.1"), node("there", "198.18.9.2"))
    (claim,) = api.claims["node", "uid-there"]
    assert claim.address == packed("198.18.9.2")
    assert (claim.until_ns, claim.strength) == (FOREVER, 5)
    assert claim.owner[:5] == ("node", "", "there", "there", "cluster")
    assert api.owner("node", "uid-here")[:5] == ("host", "", "host", "host", "node")
    api.tell("nodes", "DELETED", node("there", "198.18.9.2"), 5.0)
    assert [c.until_ns for c in api.claims["node", "uid-there"]] == [ns(5.0)]
    assert api.cluster.counts().nodes == 1


def test_a_pod_of_a_cron_job_waits_for_its_job() -> None:
    api = Api()
    owners = controlled("Job", "run-1", "job-1")
    api.tell("pods", "ADDED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 0.0)
    first = api.cluster.endpoint("uid-p")
    assert first is not None
    assert not first.final
    assert not api.owner("pod", "uid-p").final
    made = {"metadata": {"name": "run-1", "namespace": "shop", "uid": "job-1"}}
    made["metadata"] |= {"ownerReferences": controlled("CronJob", "nightly")}  # type: ignore[dict-item]
    api.tell("jobs", "ADDED", made, 0.1)
    assert api.owner("pod", "uid-p")[3:6] == ("nightly", "node", "CronJob")
    second = api.cluster.endpoint("uid-p")
    assert second is not None
    assert (second.workload, second.workload_kind, second.final) == ("nightly", "CronJob", True)
    # The Job goes first, its pods a little later; until then they are what they were.
    api.tell("jobs", "DELETED", made, 1.0)
    api.tell("pods", "MODIFIED", runs("p", "198.18.0.1", metadata__labels={"a": "b"}), 1.1)
    api.tell("pods", "MODIFIED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 1.2)
    assert api.owner("pod", "uid-p").workload == "nightly"


def test_a_job_that_is_never_listed_is_the_workload_after_a_while() -> None:
    api = Api()
    owners = controlled("Job", "run-1", "job-1")
    api.tell("pods", "ADDED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 0.0)
    api.settle(4.9)
    assert not api.owner("pod", "uid-p").final
    api.settle(5.1)
    assert api.owner("pod", "uid-p")[3:6] == ("run-1", "node", "Job")
    assert api.owner("pod", "uid-p").final


def test_a_static_pod_is_found_by_the_kubelets_uid() -> None:
    api = Api()
    marks = {"kubernetes.io/config.mirror": "c0ffee", "kubernetes.io/config.hash": "c0ffee"}
    api.show("pods", runs("proxy-here", "198.18.0.1", metadata__annotations=marks))
    found = api.cluster.endpoint("c0ffee")
    assert found is not None
    assert (found.workload, found.workload_kind, found.uid) == (
        "proxy",
        "StaticPod",
        "uid-proxy-here",
    )
    assert found == api.cluster.endpoint("uid-proxy-here")


def test_an_endpoint_is_remembered_for_a_while() -> None:
    api = Api()
    api.show("pods", runs("p", "198.18.0.1"))
    api.tell("pods", "DELETED", runs("p", "198.18.0.1"), 10.0)
    assert api.cluster.counts().pods == 0
    api.settle(75.0)
    assert api.cluster.endpoint("uid-p") is not None
    api.settle(131.0)
    assert api.cluster.endpoint("uid-p") is None


def test_objects_missing_in_a_list_of_several_pages_are_gone() -> None:
    api = Api()
    a, b, c = (runs(name, f"198.18.0.{i}") for i, name in enumerate("abc", 1))
    api.pages("pods", [(a,), (b,), (c,)], 0.0)
    assert api.cluster.counts().pods == 3
    objects = DECODERS["pods"].decode_list(list_of(b)).objects
    # A list that is broken off tells nothing of what it did not come to.
    api.cluster.apply(ObjectPage("pods", objects, True, False, ns(5.0)), api.clocks(5.0))
    api.pages("pods", [(a,), (c,)], 6.0)
    assert api.cluster.counts().pods == 2
    assert [claim.until_ns for claim in api.claims["pod", "uid-b"]][-1] == ns(6.0)
    assert [claim.until_ns for claim in api.claims["pod", "uid-a"]][-1] == FOREVER


def test_unchanged_objects_change_no_claim() -> None:
    api = Api()
    items = (runs("a", "198.18.0.1"), runs("b", "198.18.0.2"))
    api.show("pods", *items)
    api.claims.clear()
    api.show("pods", *items, at=9.0)
    assert api.claims == {}


def test_labels_of_namespaces() -> None:
    api = Api()
    item: Json = {"metadata": {"name": "shop", "labels": {"team": "pay"}}}
    api.show("namespaces", item)
    assert api.cluster.namespace_labels("shop") == (("team", "pay"),)
    assert api.cluster.namespace_labels("other") is None
    api.tell("namespaces", "DELETED", item, 1.0)
    assert api.cluster.namespace_labels("shop") is None


def test_labels_of_nodes() -> None:
    api = Api()
    api.show("nodes", node("here", "198.18.9.1", "a"))
    assert api.cluster.node_labels("here") == (("topology.kubernetes.io/zone", "a"),)
    assert api.cluster.node_labels("there") is None


def test_cluster_labels_are_the_same_until_a_label_changes() -> None:
    api = Api()
    cluster = api.cluster
    team: Json = {"metadata": {"name": "shop", "labels": {"team": "pay"}}}
    empty = cluster.cluster_labels()
    assert (empty.node_name, empty.known) == ("here", True)
    assert empty.namespace_labels("shop") is None
    api.show("namespaces", team)
    api.show("nodes", node("here", "198.18.9.1", "a"), node("there", "198.18.9.2"))
    before, version = cluster.cluster_labels(), cluster.labels_version
    assert before.namespaces == {"shop": (("team", "pay"),)}
    assert before.nodes == {"here": (("topology.kubernetes.io/zone", "a"),), "there": ()}
    api.tell("namespaces", "MODIFIED", team, 1.0)
    api.tell("nodes", "MODIFIED", node("there", "198.18.9.3"), 1.0)  # another address
    assert (cluster.cluster_labels(), cluster.labels_version) == (before, version)
    steps: list[tuple[str, str, Json]] = [
        ("namespaces", "MODIFIED", {"metadata": {"name": "shop", "labels": {"team": "x"}}}),
        ("namespaces", "ADDED", {"metadata": {"name": "bare"}}),
        ("namespaces", "DELETED", {"metadata": {"name": "bare"}}),
        ("nodes", "MODIFIED", node("there", "198.18.9.3", "b")),
        ("nodes", "DELETED", node("there", "198.18.9.3", "b")),
    ]
    for resource, kind, item in steps:
        earlier, version = cluster.cluster_labels(), cluster.labels_version
        api.tell(resource, kind, item, 2.0)
        assert cluster.cluster_labels() is not earlier, (resource, kind)
        assert cluster.labels_version > version, (resource, kind)
    assert cluster.cluster_labels().namespaces == {"shop": (("team", "x"),)}
    assert cluster.cluster_labels().nodes.keys() == {"here"}
    assert before.nodes.keys() == {"here", "there"}  # what a reader still holds stays


def test_a_node_created_again_with_its_name_is_another() -> None:
    api = Api()
    again = node("there", "198.18.9.2", "a")
    again["metadata"]["uid"] = "uid-again"
    api.show("pods", runs("p", "198.18.0.1", on="there"))
    api.show("nodes", node("here", "198.18.9.1", "a"), node("there", "198.18.9.2", "a"))
    api.show("nodes", node("here", "198.18.9.1", "a"), again, at=5.0)
    assert api.cluster.node_labels("there") is not None
    assert api.cluster.counts().nodes == 2
    api.tell("pods", "MODIFIED", runs("p", "198.18.0.1", "there", metadata__labels={"a": "b"}), 6.0)
    assert api.owner("pod", "uid-p").scope == "zone"
    api.tell("nodes", "DELETED", again, 7.0)
    assert api.cluster.node_labels("there") is None


def test_fields_of_a_pod_for_policies() -> None:
    api = Api()
    made = [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]
    api.show("pods", runs("p", "198.18.0.1", spec__containers=made), runs("q", "198.18.0.2"))
    found = api.cluster.endpoint("uid-p")
    assert found is not None
    assert (found.node, found.ports, found.host_network) == ("here", (("http", 6, 8080),), False)
    assert owner_of(found) == api.owner("pod", "uid-p")
    assert api.owner("pod", "uid-q").ports == ()
    api.tell("pods", "ADDED", runs("n", "198.18.9.1", spec__hostNetwork=True), 1.0)
    on_host = api.cluster.endpoint("uid-n")
    assert on_host is not None
    assert on_host.host_network


def test_the_host_is_one_owner_for_all_sources() -> None:
    api = Api()
    api.show("nodes", node("here", "198.18.9.1"), node("there", "198.18.9.2"))
    assert api.owner("node", "uid-here") == host_owner("here")
    assert api.owner("node", "uid-here").node == "here"
    assert api.owner("node", "uid-there").ports == ()


def test_a_service_and_its_addresses() -> None:
    api = Api()
    item = service("web", "10.99.1.1", HTTP, created=-100)
    api.show("services", item)
    (claim,) = api.claims["service", "uid-web"]
    assert claim.owner[:5] == ("service", "shop", "web", "web", "cluster")
    assert (claim.address, claim.strength) == (packed("10.99.1.1"), 10)
    assert ns(-100.2) < claim.from_ns < ns(-100)
    # An address that it gets later is claimed from about then on.
    item["spec"]["externalIPs"] = ["203.0.113.1"]
    api.tell("services", "MODIFIED", item, 50.0)
    spans = {c.address: (c.from_ns, c.until_ns) for c in api.claims["service", "uid-web"]}
    assert spans[packed("203.0.113.1")] == (ns(-5.0), FOREVER)
    item["spec"]["externalIPs"] = []
    api.tell("services", "MODIFIED", item, 60.0)
    spans = {c.address: (c.from_ns, c.until_ns) for c in api.claims["service", "uid-web"]}
    assert spans[packed("203.0.113.1")] == (ns(-5.0), ns(60.0))


def test_backends_are_named_by_the_port_of_the_pod() -> None:
    api = Api()
    dns = [
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
    ]
    targets = [
        {"name": "udp", "port": 5353, "protocol": "UDP"},
        {"name": "tcp", "port": 5354, "protocol": "TCP"},
    ]
    api.show("endpointslices", piece("dns", ["198.18.0.1"], targets))
    api.show("services", service("dns", "10.99.1.2", dns))
    services = api.cluster.services()
    one = packed("198.18.0.1")
    assert services.backends(("shop", "dns"), (17, 53)) == (BackendAddress(one, 5353),)
    assert services.backends(("shop", "dns"), (6, 53)) == (BackendAddress(one, 5354),)
    assert services.backends(("shop", "dns"), (6, 5354)) == ()
    assert services.backends(("shop", "other"), (6, 53)) == ()


def test_a_headless_service_has_backends_too() -> None:
    api = Api()
    api.show("services", service("db", "None", MAIN))
    api.show("endpointslices", piece("db", ["198.18.0.1"], MAIN))
    one = BackendAddress(packed("198.18.0.1"), 8080)
    assert api.cluster.services().backends(("shop", "db"), (6, 8080)) == (one,)
    assert api.claims["service", "uid-db"] == []


def test_the_view_of_services_has_their_objects() -> None:
    api = Api()
    item = service("web", "10.99.1.1", HTTP)
    api.show("services", item)
    before = api.cluster.services()
    assert before.objects["shop", "web"].type == "ClusterIP"
    item["spec"]["type"] = "NodePort"
    api.tell("services", "MODIFIED", item, 1.0)
    after = api.cluster.services()
    assert after.objects["shop", "web"].type == "NodePort"
    assert before.objects["shop", "web"].type == "ClusterIP"
    api.tell("services", "DELETED", item, 2.0)
    assert api.cluster.services().objects == {}
    assert list(after.objects) == [("shop", "web")]


def test_a_removed_backend_counts_for_another_minute() -> None:
    api = Api()
    api.show("services", service("web", "10.99.1.1", HTTP))
    api.show("endpointslices", piece("web", ["198.18.0.1"], MAIN))
    before = api.cluster.services()
    old, new = (
        BackendAddress(packed("198.18.0.1"), 8080),
        BackendAddress(packed("198.18.0.2"), 8080),
    )
    assert before.backends(("shop", "web"), (6, 80)) == (old,)
    api.tell("endpointslices", "MODIFIED", piece("web", ["198.18.0.2"], MAIN), 100.0)
    assert set(api.cluster.services().backends(("shop", "web"), (6, 80))) == {old, new}
    assert before.backends(("shop", "web"), (6, 80)) == (old,)
    api.settle(159.0)
    assert set(api.cluster.services().backends(("shop", "web"), (6, 80))) == {old, new}
    api.settle(161.0)
    assert api.cluster.services().backends(("shop", "web"), (6, 80)) == (new,)
    assert api.cluster.services() is api.cluster.services()


def test_nodeports_by_protocol_and_port() -> None:
    api = Api()
    ports = [*HTTP, {"name": "quic", "port": 443, "protocol": "UDP", "nodePort": 30443}]
    api.show("services", service("web", "10.99.1.1", ports))
    services = api.cluster.services()
    assert {key: owner.name for key, owner in services.nodeports.items()} == {
        (6, 30080): "web",
        (17, 30443): "web",
    }
    assert services.nodeport(17, 30443) is services.nodeports[17, 30443]
    assert services.nodeport(6, 30443) is None
    api.tell("services", "DELETED", service("web", "10.99.1.1", ports), 1.0)
    assert api.cluster.services().nodeport(17, 30443) is None
    assert services.nodeport(17, 30443) is not None


def test_a_service_created_again_with_its_name_is_another() -> None:
    api = Api()
    old, new = service("web", "10.99.1.1", HTTP), service("web", "10.99.1.9", HTTP, created=20.0)
    new["metadata"]["uid"] = "uid-again"
    api.show("services", old)
    api.show("services", new, at=30.0)
    assert [claim.until_ns for claim in api.claims["service", "uid-web"]] == [ns(30.0)]
    assert [claim.until_ns for claim in api.claims["service", "uid-again"]] == [FOREVER]
    assert api.cluster.counts().services == 1
    found = api.cluster.services().nodeport(6, 30080)
    assert found is not None
    assert found.uid == "uid-again"


def owner(name: str, workload: str, scope: str = "cluster") -> Owner:
    return Owner("pod", "shop", name, workload, scope, "Deployment", uid=name)


def test_common_backend() -> None:
    a, b, c = BackendAddress(1, 80), BackendAddress(2, 80), BackendAddress(3, 81)
    known = {1: owner("web-1", "web"), 2: owner("web-2", "web"), 3: owner("db-1", "db")}
    assert common_backend((), known.get) is None
    assert common_backend((a,), known.get) == CommonBackend(1, 80, known[1])
    shared = Owner("pod", "shop", "", "web", "cluster", "Deployment")
    assert common_backend((a, b), known.get) == CommonBackend(0, 80, shared)
    assert common_backend((a, c), known.get) is None
    assert common_backend((a, b, BackendAddress(4, 80)), known.get) == CommonBackend(0, 80, None)
    known[1] = known[1]._replace(ports=(("http", 6, 80),))
    assert common_backend((a, b), known.get) == CommonBackend(0, 80, shared)
    known[2] = owner("web-2", "web", "cross_zone")
    assert common_backend((a, b), known.get) == CommonBackend(0, 80, None)

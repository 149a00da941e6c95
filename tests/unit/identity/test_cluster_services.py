# SPDX-License-Identifier: Apache-2.0
"""Services of the cluster: their addresses, backends and node ports."""

from podtally.identity.model import FOREVER, Owner
from podtally.identity.services import BackendAddress, CommonBackend, common_backend
from tests.unit.identity.cluster_support import WALL, Api, ns, packed
from tests.unit.kube_json import Json, stamp


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


HTTP = [{"name": "http", "port": 80, "nodePort": 30080}]
MAIN = [{"name": "http", "port": 8080}]


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
    api.report("services", "MODIFIED", item, 50.0)
    spans = {c.address: (c.from_ns, c.until_ns) for c in api.claims["service", "uid-web"]}
    assert spans[packed("203.0.113.1")] == (ns(-5.0), FOREVER)
    item["spec"]["externalIPs"] = []
    api.report("services", "MODIFIED", item, 60.0)
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
    api.report("services", "MODIFIED", item, 1.0)
    after = api.cluster.services()
    assert after.objects["shop", "web"].type == "NodePort"
    assert before.objects["shop", "web"].type == "ClusterIP"
    api.report("services", "DELETED", item, 2.0)
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
    api.report("endpointslices", "MODIFIED", piece("web", ["198.18.0.2"], MAIN), 100.0)
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
    api.report("services", "DELETED", service("web", "10.99.1.1", ports), 1.0)
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

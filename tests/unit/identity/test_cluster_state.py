# SPDX-License-Identifier: Apache-2.0
"""Names, scopes and backends from the API's objects, in any order."""

from typing import Any

from podtally.identity.model import FOREVER, host_owner, owner_of
from podtally.identity.services import parse_address
from podtally.kube.model import ObjectPage
from tests.unit.identity.cluster_support import DECODERS, WALL, Api, ns, packed
from tests.unit.kube_json import Json, Run, controlled, list_of, pod, stamp, status


def node(name: str, address: str, zone: str = "") -> Json:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    meta = {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": stamp(WALL)}
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": meta, "status": {"addresses": addresses}}


def runs(name: str, address: str, on: str = "here", **more: Any) -> Json:
    run = Run(WALL - 300, WALL - 299, WALL - 298)
    return pod(name, status=status(address, run), spec__nodeName=on, **more)


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
    api.report("nodes", "MODIFIED", node("there", "198.18.9.2", "a"), 1.0)
    assert api.owner("pod", "uid-b").scope == "zone"
    api.report("nodes", "MODIFIED", node("here", "198.18.9.1", "b"), 2.0)
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
    api.report("nodes", "DELETED", node("there", "198.18.9.2"), 5.0)
    assert [c.until_ns for c in api.claims["node", "uid-there"]] == [ns(5.0)]
    assert api.cluster.counts().nodes == 1


def test_a_pod_of_a_cron_job_waits_for_its_job() -> None:
    api = Api()
    owners = controlled("Job", "run-1", "job-1")
    api.report("pods", "ADDED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 0.0)
    first = api.cluster.endpoint("uid-p")
    assert first is not None
    assert not first.final
    assert not api.owner("pod", "uid-p").final
    made = {"metadata": {"name": "run-1", "namespace": "shop", "uid": "job-1"}}
    made["metadata"] |= {"ownerReferences": controlled("CronJob", "nightly")}  # type: ignore[dict-item]
    api.report("jobs", "ADDED", made, 0.1)
    assert api.owner("pod", "uid-p")[3:6] == ("nightly", "node", "CronJob")
    second = api.cluster.endpoint("uid-p")
    assert second is not None
    assert (second.workload, second.workload_kind, second.final) == ("nightly", "CronJob", True)
    # The Job goes first, its pods a little later; until then they are what they were.
    api.report("jobs", "DELETED", made, 1.0)
    api.report("pods", "MODIFIED", runs("p", "198.18.0.1", metadata__labels={"a": "b"}), 1.1)
    api.report("pods", "MODIFIED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 1.2)
    assert api.owner("pod", "uid-p").workload == "nightly"


def test_a_job_that_is_never_listed_is_the_workload_after_a_while() -> None:
    api = Api()
    owners = controlled("Job", "run-1", "job-1")
    api.report("pods", "ADDED", runs("p", "198.18.0.1", metadata__ownerReferences=owners), 0.0)
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
    api.report("pods", "DELETED", runs("p", "198.18.0.1"), 10.0)
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
    # A list that is broken off says nothing about what it did not reach.
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
    api.report("namespaces", "DELETED", item, 1.0)
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
    api.report("namespaces", "MODIFIED", team, 1.0)
    api.report("nodes", "MODIFIED", node("there", "198.18.9.3"), 1.0)  # another address
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
        api.report(resource, kind, item, 2.0)
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
    api.report(
        "pods", "MODIFIED", runs("p", "198.18.0.1", "there", metadata__labels={"a": "b"}), 6.0
    )
    assert api.owner("pod", "uid-p").scope == "zone"
    api.report("nodes", "DELETED", again, 7.0)
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
    api.report("pods", "ADDED", runs("n", "198.18.9.1", spec__hostNetwork=True), 1.0)
    on_host = api.cluster.endpoint("uid-n")
    assert on_host is not None
    assert on_host.host_network


def test_the_host_is_one_owner_for_all_sources() -> None:
    api = Api()
    api.show("nodes", node("here", "198.18.9.1"), node("there", "198.18.9.2"))
    assert api.owner("node", "uid-here") == host_owner("here")
    assert api.owner("node", "uid-here").node == "here"
    assert api.owner("node", "uid-there").ports == ()

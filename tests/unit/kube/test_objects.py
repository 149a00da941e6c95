# SPDX-License-Identifier: Apache-2.0
"""The kept fields of the API's objects, and decoding of lists and watch events."""

import json
from typing import Any

import msgspec
import pytest

from podtally.kube.model import ApiStatus
from podtally.kube.objects import (
    RESOURCES,
    EndpointSlice,
    KubeJob,
    KubeNamespace,
    KubeNode,
    KubePod,
    KubeService,
)
from podtally.kube.pods import Life
from podtally.kube.schema import Ports
from tests.unit.kube_json import Json, Run, controlled, event, list_of, pod, status

DECODERS = {resource.name: resource for resource in RESOURCES}


def one(resource: str, item: Json) -> Any:
    (found,) = DECODERS[resource].decode_list(list_of(item)).objects
    same = DECODERS[resource].decode_event(event("MODIFIED", item)).object
    assert same == found
    return found


def life(run: Run, phase: str = "Running", **more: Any) -> Life:
    found: KubePod = one("pods", pod(status=status("10.99.0.1", run, phase), **more))
    return found.life


def test_a_page_has_its_version_and_token() -> None:
    page = DECODERS["pods"].decode_list(list_of(pod("a"), pod("b"), version="42", more="next"))
    assert [item.name for item in page.objects] == ["a", "b"]
    assert page[1:3] == ("42", "next")
    assert DECODERS["pods"].decode_list(b'{"metadata":{},"items":null}') == ([], "", "", 0)


def test_watch_events() -> None:
    decode = DECODERS["pods"].decode_event
    changed = decode(event("ADDED", pod(metadata__resourceVersion="8")))
    assert (changed.type, changed.resource_version, changed.status) == ("ADDED", "8", None)
    bookmark = decode(event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "9"}}))
    assert bookmark == ("BOOKMARK", None, "9", None)
    expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    assert decode(event("ERROR", expired)) == (
        "ERROR",
        None,
        "",
        ApiStatus(410, "Expired", "too old"),
    )
    busy = {"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 3}}
    found = decode(event("ERROR", busy)).status
    assert found
    assert found.retry_after_seconds == 3.0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"metadata":{},"items":[{"spec":{}}]}'])
def test_invalid_lists_are_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        DECODERS["pods"].decode_list(body)


def test_a_pod() -> None:
    found: KubePod = one(
        "pods",
        pod(
            metadata__labels={"b": "2", "a": "1"},
            metadata__ownerReferences=[
                {"kind": "Thing", "name": "t", "uid": "u0"},
                *controlled("StatefulSet", "web", "u1"),
            ],
            metadata__annotations={"kubernetes.io/config.hash": "abc", "other": "x" * 9},
            status={"podIP": "10.99.0.1", "podIPs": [{"ip": "10.99.0.1"}, {"ip": "2001:db8::1"}]},
        ),
    )
    assert found.labels == (("a", "1"), ("b", "2"))
    assert found.controller == ("StatefulSet", "web", "u1")
    assert found.addresses == ("10.99.0.1", "2001:db8::1")
    assert (found.mirrors, found.config_hash, found.host_network) == (False, "abc", False)
    assert one("pods", pod(spec__hostNetwork=True)).host_network


def test_equal_labels_are_kept_once() -> None:
    page = DECODERS["pods"].decode_list(
        list_of(*(pod(str(i), metadata__labels={"tier": "front end"}) for i in range(2)))
    )
    (first,), (second,) = (item.labels for item in page.objects)
    assert first[0] is second[0]
    assert first[1] is second[1]


def container(*ports: Json, **more: Any) -> Json:
    return {"name": "c", "ports": list(ports)} | more


def ports_of(**spec: Any) -> Ports:
    found: KubePod = one("pods", pod(**{f"spec__{key}": value for key, value in spec.items()}))
    return found.ports


def test_only_named_ports_of_a_pod_are_kept() -> None:
    dns = [{"name": "dns", "containerPort": 53, "protocol": p} for p in ("UDP", "TCP", "SCTP")]
    assert ports_of(
        containers=[
            container({"name": "http", "containerPort": 8080}, {"containerPort": 9090}),
            {"name": "without"},
            container(*dns, {"name": "odd", "containerPort": 1, "protocol": "DCCP"}),
            container({"name": "http", "containerPort": 8081}),
        ]
    ) == (
        ("http", 6, 8080),
        ("dns", 17, 53),
        ("dns", 6, 53),
        ("dns", 132, 53),
        ("http", 6, 8081),
    )
    assert ports_of(containers=[{"name": "c", "ports": None}], initContainers=None) == ()


def test_sidecars_ports_count_and_those_of_other_init_containers_do_not() -> None:
    metrics, never = {"name": "metrics", "containerPort": 9}, {"name": "no", "containerPort": 7}
    assert ports_of(
        containers=[container({"name": "http", "containerPort": 80})],
        initContainers=[
            container(never),
            container(metrics, restartPolicy="Always"),
            container(never, restartPolicy="OnFailure"),
        ],
    ) == (("http", 6, 80), ("metrics", 6, 9))


def test_equal_ports_are_kept_once() -> None:
    made = [container({"name": "front end", "containerPort": 80})]
    page = DECODERS["pods"].decode_list(
        list_of(*(pod(str(i), spec__containers=made) for i in range(2)))
    )
    first, second = (item.ports for item in page.objects)
    assert first == (("front end", 6, 80),)
    assert first is second


def test_life_of_a_pod_that_runs() -> None:
    assert life(Run(100)) == Life(100, 0, 0, 0, 0, 0, False)
    assert life(Run(100, sandbox=102.9)) == Life(100, 102, 0, 102, 0, 0, False)
    assert life(Run(100, 102, 104)) == Life(100, 102, 104, 104, 0, 0, False)


def test_a_container_that_will_be_restarted_does_not_end_its_pod() -> None:
    assert life(Run(100, 102, 104, 106)) == Life(100, 102, 104, 106, 0, 0, False)
    run = Run(100, 102, 104, 106, exit_code=1)
    assert not life(run, spec__restartPolicy="OnFailure").over


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_container_that_will_not_be_restarted_ends_its_pod(policy: str) -> None:
    found = life(Run(100, 102, 104, 106), spec__restartPolicy=policy)
    assert found == Life(100, 102, 104, 106, 106, 0, True)


def test_with_container_restart_rules_the_phase_decides() -> None:
    rules = [{"name": "main", "restartPolicy": "Always"}]
    more: Json = {"spec__restartPolicy": "Never", "spec__containers": rules}
    assert not life(Run(100, 102, 104, 106), **more).over
    assert life(Run(100, 102, 104, 106), "Failed", **more).over


def test_a_running_sidecar_keeps_its_pod_alive() -> None:
    made = status("10.99.0.1", Run(100, 102, 104, 106))
    made["initContainerStatuses"] = [
        {"state": {"running": {"startedAt": "1970-01-01T00:01:43Z"}}}  # second 103
    ]
    found: KubePod = one("pods", pod(status=made, spec__restartPolicy="Never"))
    assert found.life == Life(100, 102, 103, 106, 0, 0, False)


def test_a_deleted_pod_ends_with_its_containers() -> None:
    deleted: Json = {
        "metadata__deletionTimestamp": "1970-01-01T00:02:25Z",  # second 145
        "metadata__deletionGracePeriodSeconds": 30,
    }
    assert not life(Run(100, 102, 104), **deleted).over
    assert life(Run(100, 102, 104, 120), **deleted).ended_seconds == 120


def test_a_pod_that_crashed_and_waited_ends_when_it_is_deleted() -> None:
    deleted: Json = {
        "metadata__deletionTimestamp": "1970-01-01T00:02:25Z",
        "metadata__deletionGracePeriodSeconds": 5,
    }
    assert life(Run(100, 102, 104, 106), **deleted).ended_seconds == 140
    gone = life(Run(100, 102, 104, 106, gone=130), "Failed", **deleted)
    assert (gone.ended_seconds, gone.gone_seconds) == (130, 130)


def test_a_sandbox_that_is_not_ready_yet_is_no_end() -> None:
    # Never reported as ready: the condition is still of the time before the containers.
    run = Run(100, sandbox=None, started=104, finished=106)
    assert life(run, "Succeeded", spec__restartPolicy="Never").ended_seconds == 106


def test_the_end_of_an_evicted_pod_is_unknown() -> None:
    found: KubePod = one("pods", pod(status={"phase": "Failed", "podIP": "10.99.0.1"}))
    assert found.life == Life(0, 0, 0, 0, 0, 0, True)


def test_nodes_and_their_zones() -> None:
    addresses = [{"type": "InternalIP", "address": "198.18.0.1"}]
    item = {"metadata": {"name": "n", "uid": "u"}, "status": {"addresses": addresses}}
    found: KubeNode = one("nodes", item)
    assert (found.name, found.zone, found.addresses) == ("n", "", ("198.18.0.1",))
    old = {"failure-domain.beta.kubernetes.io/zone": "b"}
    assert one("nodes", {"metadata": {"labels": old}}).zone == "b"
    both = old | {"topology.kubernetes.io/zone": "a"}
    assert one("nodes", {"metadata": {"labels": both}}).zone == "a"


def test_labels_of_nodes_are_sorted() -> None:
    found: KubeNode = one("nodes", {"metadata": {"labels": {"b": "2", "a": "1"}}})
    assert found.labels == (("a", "1"), ("b", "2"))


def test_services() -> None:
    item = {
        "metadata": {"name": "s", "namespace": "shop", "uid": "u"},
        "spec": {
            "clusterIP": "10.99.1.1",
            "clusterIPs": ["10.99.1.1", "2001:db8::9"],
            "externalIPs": ["203.0.113.9"],
            "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"hostname": "lb.x"}]}},
    }
    found: KubeService = one("services", item)
    assert found.addresses == ("10.99.1.1", "2001:db8::9", "203.0.113.9", "203.0.113.10")
    assert [(p.name, p.protocol, p.port, p.node_port) for p in found.ports] == [
        ("", "TCP", 80, 30080)
    ]
    assert found.type == "ClusterIP"
    assert found.outside_addresses == ("203.0.113.9", "203.0.113.10", "lb.x")
    headless = {"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}
    assert one("services", headless).addresses == ()
    named = {"metadata": {}, "spec": {"type": "ExternalName", "externalName": "a.example"}}
    assert one("services", named).addresses == ()
    assert one("services", named).outside_addresses == ()
    assert one("services", named).type == "ExternalName"


def test_slices_keep_endpoints_that_may_get_traffic() -> None:
    conditions = [None, {}, {"ready": False}, {"ready": False, "serving": True}]
    endpoints = [
        {"addresses": [f"10.99.0.{i}"]} | ({} if known is None else {"conditions": known})
        for i, known in enumerate(conditions)
    ]
    item = {
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "protocol": "UDP", "port": 53}, {"name": "all", "port": None}],
    }
    found: EndpointSlice = one("endpointslices", item)
    assert found.addresses == ("10.99.0.0", "10.99.0.1", "10.99.0.3")
    assert [(p.name, p.protocol, p.port) for p in found.ports] == [("", "UDP", 53)]
    assert found.service == "s"
    assert one("endpointslices", item | {"addressType": "FQDN"}).addresses == ()
    assert one("endpointslices", item | {"endpoints": None}).addresses == ()


def test_objects_of_which_only_metadata_is_read() -> None:
    meta = {"name": "j", "namespace": "shop", "uid": "u", "labels": {"a": "1"}}
    assert one("namespaces", {"metadata": meta}) == KubeNamespace("j", (("a", "1"),))
    made = meta | {"ownerReferences": controlled("CronJob", "nightly", "c")}
    job: KubeJob = one("jobs", {"metadata": made, "spec": json.loads("{}")})
    assert job.controller == ("CronJob", "nightly", "c")

# SPDX-License-Identifier: Apache-2.0
"""What is kept of the API's policies and Ingresses, and what becomes of those not understood."""

import json
import random
from typing import Any

import msgspec
import pytest

from podtally.policy.ingress import DeclaredIngress, IngressRoute, IngressServicePort, addresses_of
from podtally.policy.load.api_resources import POLICY_RESOURCES, ApiPolicyObject
from podtally.policy.load.documents import read_text
from podtally.policy.model import ADMIN_TIER, ALLOW, EVERYTHING, PodSubject, Policy, Rule
from tests.unit.policy.policy_api import BY_NAME, cluster_policy, decoded, ingress, network_policy
from tests.unit.policy.test_documents import hostile

WEB = IngressRoute("", "", "", IngressServicePort("web", 80, ""))


def test_what_is_watched() -> None:
    assert [(resource.path, resource.optional) for resource in POLICY_RESOURCES] == [
        ("/apis/networking.k8s.io/v1/networkpolicies", False),
        ("/apis/networking.k8s.io/v1/ingresses", False),
        ("/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies", True),
        ("/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies", True),
        ("/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies", True),
    ]


def test_items_of_lists_have_no_kind_and_are_read() -> None:
    (found,) = decoded("networkpolicies", network_policy("shop/a", ingress=[{}]))
    subject = PodSubject(None, EVERYTHING)
    meaning = Policy("NetworkPolicy", "shop", "a", subject, ingress=(Rule(0, ALLOW),))
    assert found == ApiPolicyObject("NetworkPolicy", "shop", "a", "uid-a", meaning)
    (admin,) = decoded("clusternetworkpolicies", cluster_policy("top"))
    assert isinstance(admin.policy_object, Policy)
    assert (admin.kind, admin.policy_object.tier, admin.policy_object.unreadable) == (
        "ClusterNetworkPolicy",
        ADMIN_TIER,
        "",
    )


def test_what_the_server_adds_to_metadata_and_status_is_let_pass() -> None:
    item = network_policy("shop/a")
    item["metadata"] |= {
        "managedFields": [{"f:a": {}}],
        "brandNew": {"a": [1]},
        "labels": {"a": ""},
    }
    item["status"] = {"conditions": [{"type": "X"}]}
    (found,) = decoded("networkpolicies", item)
    assert isinstance(found.policy_object, Policy)
    assert not found.policy_object.unreadable


@pytest.mark.parametrize(
    "spec",
    [
        {"brandNew": 1},
        {"podSelector": 5},
        {"ingress": [{"from": [{"everyone": {}}]}]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}]}]},
        {"policyTypes": ["Sideways"]},
    ],
)
def test_what_is_not_understood_is_unreadable_with_the_reason(spec: dict[str, Any]) -> None:
    (found,) = decoded("networkpolicies", network_policy("shop/a", **spec))
    assert isinstance(found.policy_object, Policy)
    assert (found.policy_object.namespace, found.policy_object.name) == ("shop", "a")
    assert found.policy_object.unreadable.startswith("api: NetworkPolicy shop/a: spec")
    assert found.problems[0].source == "api"


def test_an_object_without_a_spec() -> None:
    item = cluster_policy("top")
    del item["spec"]
    (found,) = decoded("clusternetworkpolicies", item)
    assert isinstance(found.policy_object, Policy)
    assert found.policy_object.unreadable


def test_an_ingress_says_where_it_is_reached() -> None:
    given = [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}, {"ip": "203.0.113.7"}, {}]
    (found,) = decoded(
        "ingresses", ingress("shop/web", status={"loadBalancer": {"ingress": given}})
    )
    addresses = ("203.0.113.7", "lb.example")
    assert found.policy_object == DeclaredIngress("shop", "web", "", (WEB,), addresses)


@pytest.mark.parametrize(
    "status", [None, 5, [], {}, {"loadBalancer": None}, {"loadBalancer": {"ingress": [5]}}]
)
def test_a_malformed_status_has_no_address(status: Any) -> None:
    assert addresses_of(status) == ()
    (found,) = decoded("ingresses", ingress("shop/web", status=status))
    assert found.policy_object == DeclaredIngress("shop", "web", "", (WEB,))


def test_the_class_of_an_ingress() -> None:
    item = ingress("shop/web")
    item["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "old", "x" * 400: "y"}
    (found,) = decoded("ingresses", item)
    assert isinstance(found.policy_object, DeclaredIngress)
    assert (found.policy_object.class_name, found.policy_object.unreadable) == ("old", "")
    item["spec"]["ingressClassName"] = "new"  # by an update the server takes both
    (found,) = decoded("ingresses", item)
    assert isinstance(found.policy_object, DeclaredIngress)
    assert (found.policy_object.class_name, found.policy_object.unreadable) == ("new", "")


def test_an_ingress_that_is_not_understood_is_not_dropped() -> None:
    item = ingress("shop/web", status={"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}})
    item["spec"]["brandNew"] = 1
    (found,) = decoded("ingresses", item)
    assert isinstance(found.policy_object, DeclaredIngress)
    assert (found.policy_object.routes, found.policy_object.addresses) == ((), ("203.0.113.7",))
    assert "brandNew" in found.policy_object.unreadable
    assert found.problems


def test_events_and_bookmarks() -> None:
    resource = BY_NAME["networkpolicies"]
    item = network_policy("shop/a") | {
        "kind": "NetworkPolicy",
        "apiVersion": "networking.k8s.io/v1",
    }
    item["metadata"]["resourceVersion"] = "23"
    event = resource.decode_event(json.dumps({"type": "MODIFIED", "object": item}).encode())
    assert event.object == decoded("networkpolicies", item)[0]
    assert (event.type, event.resource_version) == ("MODIFIED", "23")
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "24"}}}
    assert resource.decode_event(json.dumps(bookmark).encode()).resource_version == "24"


def test_what_is_nested_without_end_does_not_end_the_thread() -> None:
    deep = b'{"metadata": {}, "items": [{"metadata": {}, "spec": ' + b"[" * 100_000
    with pytest.raises(ValueError, match="too deep"):
        BY_NAME["networkpolicies"].decode_list(deep)


def test_hostile_objects_are_kept_and_never_raise() -> None:
    chance = random.Random(5)
    seen = {"good": 0, "unreadable": 0}
    for _ in range(3000):
        for document in read_text(hostile(chance), "fuzz").documents:
            resource = next(
                (r for r in POLICY_RESOURCES if document.kind.lower()[:-1] in r.name), None
            )
            if resource is None or document.kind == "HostPolicy":
                continue
            item = {k: v for k, v in document.content.items() if k not in ("kind", "apiVersion")}
            item["metadata"] = {"name": "a", "namespace": "shop", "uid": "u"}
            body = {"metadata": {"resourceVersion": "7"}, "items": [item]}
            (found,) = resource.decode_list(msgspec.json.encode(body)).objects
            seen["unreadable" if found.policy_object.unreadable else "good"] += 1
            assert bool(found.problems) == bool(found.policy_object.unreadable)
    assert min(seen.values()) > 100, seen

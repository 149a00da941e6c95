# SPDX-License-Identifier: Apache-2.0
"""By whom an Ingress is served: known from the addresses that are published for it alone."""

from typing import Any

import pytest

from podtally.identity.services import Services
from podtally.policy.exposure.exposures import build_exposure
from tests.unit.kube_json import Json
from tests.unit.policy.exposure_support import (
    CONTROLLER,
    WEB_INGRESS,
    controls,
    declared,
    endpoints,
    ingress,
    service,
    services,
    to,
    via,
)

BALANCED = [{"ip": "203.0.113.7"}]
EDGE_PODS = ("10.99.1.1", "10.99.1.2")


EDGE_SLICES = [
    endpoints("ctl", *EDGE_PODS, namespace="edge", ports=CONTROLLER["ports"]),
    endpoints("web", "10.99.0.1"),
    endpoints("unused", "10.99.1.9"),
]


def edge_services(**spec: Any) -> list[Json]:
    """The controller's Service, and the shop's with one pod."""
    of_controller = {"type": "LoadBalancer", "clusterIP": "10.99.200.9"} | spec
    return [service(**CONTROLLER, **of_controller), service("web"), service("unused")]


def edge(**spec: Any) -> Services:
    return services(edge_services(**spec), EDGE_SLICES)


@pytest.mark.parametrize(
    ("published", "spec"),
    [
        ("203.0.113.7", {"balanced": [{"ip": "203.0.113.7"}]}),
        ("lb.example", {"balanced": [{"hostname": "LB.example."}]}),
        ("198.18.0.7", {"type": "NodePort", "externalIPs": ["198.18.0.7"]}),
        ("2001:db8::7", {"externalIPs": ["2001:DB8:0::7"]}),
        ("10.99.200.9", {"type": "ClusterIP"}),
        ("10.99.200.9", {"type": "NodePort"}),
    ],
)
def test_a_controller_answers_at_the_published_address(published: str, spec: Json) -> None:
    found = build_exposure(
        [ingress(WEB_INGRESS, published)], edge(**spec), ["198.18.9.9", "node-1"]
    )
    for pod in EDGE_PODS:
        assert controls(found, pod)
        assert via(found, pod, "10.99.0.1", 8080) == "Ingress shop/web (shop.example/cart)"
        assert via(found, pod, "10.99.0.1", 9999) == ""  # no Ingress leads there
        assert via(found, pod, "10.99.1.9", 8080) == ""
    assert not controls(found, "10.99.0.1")
    assert via(found, "10.99.0.1", "10.99.0.1", 8080) == ""
    assert via(found, "", "10.99.0.1", 8080) == ""


@pytest.mark.parametrize(
    ("published", "nodes"),
    [
        ((), []),  # no controller has taken it on
        (("203.0.113.8",), []),  # a load balancer that is no Service's
        (("203.0.113.7",), ["203.0.113.7"]),  # a node's
        (("node-1",), ["node-1"]),
    ],
)
def test_nothing_is_concluded_from_addresses_that_lead_to_no_service(
    published: tuple[str, ...], nodes: list[str]
) -> None:
    balanced = [{"ip": "203.0.113.7"}, {"hostname": "node-1"}]
    found = build_exposure([ingress(WEB_INGRESS, *published)], edge(balanced=balanced), nodes)
    assert not controls(found, EDGE_PODS[0])
    assert via(found, EDGE_PODS[0], "10.99.0.1", 8080) == ""
    assert declared(found, "10.99.0.1", 8080) != ""  # that it is exposed, is declared all the same


def test_a_controller_in_a_nodes_network_is_not_distinguished_from_the_node() -> None:
    found = build_exposure(
        [ingress(WEB_INGRESS, "203.0.113.7")],
        edge(balanced=[{"ip": "203.0.113.7"}]),
        [EDGE_PODS[0]],
    )
    assert not controls(found, EDGE_PODS[0])
    assert via(found, EDGE_PODS[1], "10.99.0.1", 8080) != ""


@pytest.mark.parametrize(
    ("ports", "pod", "controllers"),
    [
        ((("", 9000, 8080),), "10.99.1.9", EDGE_PODS),  # no port of an Ingress
        ((("", 80, 8080),), "10.99.1.9", EDGE_PODS),  # the owner of 80 is not known; that of 443 is
        ((("a", 80, 8080), ("b", 443, 8080)), "10.99.1.9", ()),
        ((("a", 443, 8080, "UDP"), ("b", 80, 8080, "UDP")), "10.99.1.9", EDGE_PODS),  # HTTP/3
        ((("a", 80, 8080), ("b", 443, 8080)), EDGE_PODS, EDGE_PODS),  # they mean the same pods
    ],
)
def test_services_share_an_address_by_their_ports(ports: Any, pod: Any, controllers: Any) -> None:
    other = service("other", ports=ports, type="LoadBalancer", balanced=BALANCED)
    pods = (pod,) if isinstance(pod, str) else pod
    slices = [*EDGE_SLICES, endpoints("other", *pods, ports=ports)]
    view = services([*edge_services(balanced=BALANCED), other], slices)
    found = build_exposure([ingress(WEB_INGRESS, "203.0.113.7")], view, ())
    assert (
        tuple(filter(lambda each: controls(found, each), (*EDGE_PODS, "10.99.1.9"))) == controllers
    )


def test_a_controller_need_not_be_on_the_usual_ports() -> None:
    ports = (("tls", 8443, 8443),)
    objects = [
        service("ctl", "edge", ports, type="LoadBalancer", balanced=BALANCED),
        service("web"),
    ]
    slices = [endpoints("ctl", *EDGE_PODS, namespace="edge", ports=ports), EDGE_SLICES[1]]
    found = build_exposure([ingress(WEB_INGRESS, "203.0.113.7")], services(objects, slices), ())
    assert controls(found, EDGE_PODS[1])


def test_an_address_shared_by_two_services_of_one_ingress() -> None:
    parts = [(name, [port]) for name, port in zip("ab", CONTROLLER["ports"], strict=True)]
    objects = [
        service(name, "edge", ports, type="LoadBalancer", balanced=BALANCED)
        for name, ports in parts
    ]
    slices = [
        endpoints(name, address, namespace="edge", ports=ports)
        for (name, ports), address in zip(parts, EDGE_PODS, strict=True)
    ]
    view = services([*objects, service("web")], [*slices, endpoints("web", "10.99.0.1")])
    found = build_exposure([ingress(WEB_INGRESS, "203.0.113.7")], view, ())
    assert all(via(found, pod, "10.99.0.1", 8080) for pod in EDGE_PODS)


def test_a_controller_serves_its_own_ingresses_only() -> None:
    """Two controllers, and a third pod that is in both Services."""
    objects = [
        service(
            "one",
            "edge",
            CONTROLLER["ports"],
            type="LoadBalancer",
            balanced=[{"ip": "203.0.113.1"}],
        ),
        service(
            "two",
            "edge",
            CONTROLLER["ports"],
            type="LoadBalancer",
            balanced=[{"ip": "203.0.113.2"}],
        ),
        service("web"),
        service("api"),
    ]
    slices = [
        endpoints("one", "10.99.1.1", "10.99.1.3", namespace="edge", ports=CONTROLLER["ports"]),
        endpoints("two", "10.99.1.2", "10.99.1.3", namespace="edge", ports=CONTROLLER["ports"]),
        endpoints("web", "10.99.0.1"),
        endpoints("api", "10.99.0.2"),
    ]
    web = to("{service: {name: web, port: {number: 80}}}")._replace(addresses=("203.0.113.1",))
    api = to("{service: {name: api, port: {number: 80}}}", "api")._replace(
        addresses=("203.0.113.2",)
    )
    found = build_exposure([web, api], services(objects, slices), ())
    pods = ("10.99.1.1", "10.99.1.2", "10.99.1.3")
    assert [via(found, pod, "10.99.0.1", 8080) != "" for pod in pods] == [True, False, True]
    assert [via(found, pod, "10.99.0.2", 8080) != "" for pod in pods] == [False, True, True]

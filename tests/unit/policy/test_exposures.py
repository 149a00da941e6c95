# SPDX-License-Identifier: Apache-2.0
"""Which pods are declared to be exposed, and by what."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import address_number
from podtally.identity.services import LINGER_NS, BackendAddress, Services
from podtally.kube.objects import KubeService, KubeServicePort
from podtally.policy.exposure.exposures import ExposureBuilder, build_exposure
from podtally.policy.exposure.table import NOTHING, FirstMatchTable, TableRows
from podtally.policy.ingress import DeclaredIngress, IngressRoute
from podtally.policy.ingress import IngressServicePort as Front
from podtally.policy.vector.addresses import Addresses
from tests.unit.kube_json import Json
from tests.unit.policy.exposure_support import (
    CONTROLLER,
    SECOND,
    WEB_INGRESS,
    WORD,
    declared,
    endpoints,
    halves,
    ingress,
    one,
    service,
    services,
    to,
    via,
)

# -- Services ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"type": "LoadBalancer"}, "LoadBalancer shop/web:80"),  # it has no address yet
        ({"type": "LoadBalancer", "externalIPs": ["198.18.0.1"]}, "LoadBalancer shop/web:80"),
        ({"type": "NodePort"}, "NodePort shop/web:30080"),
        ({"externalIPs": ["198.18.0.1"]}, "externalIPs shop/web:80"),
        ({}, ""),
        ({"type": "ExternalName", "externalIPs": ["198.18.0.1"]}, ""),
        ({"clusterIP": "None", "externalIPs": ["198.18.0.1"]}, ""),  # kube-proxy steps over it
    ],
)
def test_a_service_exposes_by_its_type(spec: Json, text: str) -> None:
    ports = (("", 80, 8080, "TCP", 30080),)
    view = services(
        [service("web", ports=ports, **spec)], [endpoints("web", "10.99.0.1", ports=ports)]
    )
    found = build_exposure((), view, ())
    assert declared(found, "10.99.0.1", 8080) == text
    assert declared(found, "10.99.0.1", 80) == ""  # the Service's, not the pod's
    assert declared(found, "10.99.0.2", 8080) == ""
    assert declared(found, "10.99.0.1", 8080, protocol=17) == ""


def test_each_port_of_a_service_is_its_own_and_protocols_are_distinguished() -> None:
    ports = (("dns", 53, 5353, "UDP"), ("dns-tcp", 53, 5353), ("web", 80, 8080))
    view = services(
        [service("d", ports=ports, type="LoadBalancer")],
        [endpoints("d", "10.99.0.1", "10.99.0.3", ports=ports)],
    )
    found = build_exposure((), view, ())
    assert declared(found, "10.99.0.3", 5353, protocol=17) == "LoadBalancer shop/d:53/UDP"
    assert declared(found, "10.99.0.3", 5353) == "LoadBalancer shop/d:53"
    assert declared(found, "10.99.0.1", 8080) == "LoadBalancer shop/d:80"
    assert declared(found, "10.99.0.1", 8080, protocol=17) == ""


def test_a_named_target_port_may_be_another_in_each_pod() -> None:
    old, new = (("http", 80, 8080),), (("http", 80, 9090),)
    slices = [endpoints("web", "10.99.0.1", ports=old), endpoints("web", "10.99.0.2", ports=new)]
    found = build_exposure(
        (), services([service("web", ports=old, type="LoadBalancer")], slices), ()
    )
    assert declared(found, "10.99.0.1", 8080) == declared(found, "10.99.0.2", 9090) != ""
    assert declared(found, "10.99.0.1", 9090) == declared(found, "10.99.0.2", 8080) == ""


def test_both_families_and_no_others_that_share_a_half() -> None:
    slices = [endpoints("web", "10.99.0.1"), endpoints("web", "2001:db8::1", "2001:db8:0:1::2")]
    found = build_exposure((), services([service("web", type="LoadBalancer")], slices), ())
    for address in ("10.99.0.1", "2001:db8::1", "2001:db8:0:1::2"):
        assert declared(found, address, 8080) == "LoadBalancer shop/web:80"
    for address in ("2001:db8::2", "2001:db8:0:1::1", "::1", "2001:db8::ffff:a63:1"):
        assert declared(found, address, 8080) == ""


def test_a_service_without_backends_exposes_nothing() -> None:
    found = build_exposure((), services([service("web", type="LoadBalancer")], []), ())
    assert declared(found, "10.99.0.1", 8080) == ""
    assert [each.text for each in found.declarations] == ["LoadBalancer shop/web:80"]


def test_what_is_not_known_is_not_found() -> None:
    found = build_exposure(
        (), services([service("web", type="LoadBalancer")], [endpoints("web", "10.99.0.1")]), ()
    )
    assert declared(found, "", 8080) == ""
    for port in (0, -1, -2, 1 << 16 | 8080, 1 << 40 | 8080):
        assert declared(found, "10.99.0.1", port) == ""


def test_a_backend_that_went_counts_while_its_connections_may_be_read() -> None:
    cluster, front = ClusterState("here"), [service("web", type="LoadBalancer")]
    services(front, [endpoints("web", "10.99.0.1")], cluster)
    soon = services(front, [endpoints("web", "10.99.0.2")], cluster, 2 * SECOND)
    assert declared(build_exposure((), soon, ()), "10.99.0.1", 8080) == "LoadBalancer shop/web:80"
    late = services(front, [endpoints("web", "10.99.0.2")], cluster, 2 * SECOND + LINGER_NS)
    assert declared(build_exposure((), late, ()), "10.99.0.1", 8080) == ""
    assert declared(build_exposure((), late, ()), "10.99.0.2", 8080) == "LoadBalancer shop/web:80"


# -- Ingresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "service_port"),
    [
        ("{service: {name: web, port: {number: 80}}}", "web:80"),
        ("{service: {name: web, port: {name: http}}}", "web:80"),
        ("{service: {name: web, port: {number: 443}}}", "web:443"),  # UDP has it, too
        ("{service: {name: bare, port: {number: 80}}}", "bare:80"),  # headless
        ("{service: {name: web, port: {number: 8080}}}", ""),  # the pod's
        ("{service: {name: web, port: {number: 81}}}", ""),
        ("{service: {name: web, port: {name: quic}}}", ""),  # an Ingress speaks HTTP: TCP
        ("{service: {name: away, port: {number: 80}}}", ""),  # an ExternalName
        ("{service: {name: nobody, port: {number: 80}}}", ""),
        ("{service: {name: ctl, port: {number: 80}}}", ""),  # another namespace's
        ("{resource: {kind: Bucket, name: web}}", ""),
    ],
)
def test_an_ingress_means_a_port_of_a_service_of_its_namespace(
    backend: str, service_port: str
) -> None:
    ports = (("quic", 443, 8080, "UDP"), ("https", 443, 8080), ("http", 80, 8080))
    objects = [
        service("web", ports=ports),
        service("bare", ports=ports, clusterIP="None"),
        service("away", ports=ports, type="ExternalName", clusterIP="", externalName="x.example"),
        service(**CONTROLLER),
    ]
    slices = [
        *(
            endpoints(name, f"10.99.0.{i}", ports=ports)
            for i, name in enumerate(("web", "bare", "away"), 1)
        ),
        endpoints("ctl", "10.99.0.4", namespace="edge", ports=ports),
    ]
    found = build_exposure([to(backend)], services(objects, slices), ())
    texts = {declared(found, f"10.99.0.{i}", 8080) for i in range(1, 5)} - {""}
    assert texts == (
        {f"Ingress shop/web (shop.example/) by Service shop/{service_port}"}
        if service_port
        else set()
    )
    assert not any(declared(found, f"10.99.0.{i}", 8080, protocol=17) for i in range(1, 5))


def test_hosts_and_paths_are_reported() -> None:
    text = """
metadata: {name: i, namespace: shop}
spec:
  defaultBackend: {service: {name: rest, port: {number: 80}}}
  rules:
  - http: {paths: [{path: /a, pathType: Exact, backend: {service: {name: a, port: {number: 80}}}}]}
  - host: "*.b.example"
    http: {paths: [{pathType: ImplementationSpecific, backend: {service: {name: b, port: {number: 80}}}}]}
  - host: c.example
    http: {paths: [%s]}
  - host: nothing.example
"""
    paths = ["/1", "/2", "/3", "/4", "/5", "/\\n\\e[31m" + "x" * 300]
    many = ", ".join(
        f'{{path: "{p}", pathType: Prefix, backend: {{service: {{name: c, port: {{number: 80}}}}}}}}'
        for p in paths
    )
    names = ("rest", "a", "b", "c")
    view = services(
        map(service, names), [endpoints(name, f"10.99.0.{i}") for i, name in enumerate(names)]
    )
    found = build_exposure([ingress(text % many)], view, ())
    assert [declared(found, f"10.99.0.{i}", 8080) for i in range(4)] == [
        "Ingress shop/i (default backend) by Service shop/rest:80",
        "Ingress shop/i (*/a) by Service shop/a:80",
        "Ingress shop/i (*.b.example) by Service shop/b:80",
        "Ingress shop/i (c.example/1, c.example/2, c.example/3, +3) by Service shop/c:80",
    ]
    (declaration,) = (each for each in found.declarations if each.service == "c")
    last = declaration._replace(routes=declaration.routes[-1:]).via
    assert last.isprintable()
    assert len(last) < 250


def test_what_says_most_counts_whatever_the_order() -> None:
    ports = (("", 80, 8080, "TCP", 30080),)
    objects = [
        service("a", ports=ports, externalIPs=["198.18.0.1"]),
        service("b", ports=ports, type="NodePort"),
        service("c", ports=ports, type="LoadBalancer"),
        service("web", ports=ports, type="NodePort"),
    ]
    slices = [endpoints(each["metadata"]["name"], "10.99.0.1", ports=ports) for each in objects]
    ingresses = [
        ingress(WEB_INGRESS),
        ingress(WEB_INGRESS.replace("name: web, namespace", "name: any, namespace")),
    ]
    expected = [
        "Ingress shop/any (shop.example/cart) by Service shop/web:80",
        "Ingress shop/web (shop.example/cart) by Service shop/web:80",
        "LoadBalancer shop/c:80",
        "NodePort shop/b:30080",
        "NodePort shop/web:30080",
        "externalIPs shop/a:80",
    ]
    for turn in (1, -1):
        found = build_exposure(ingresses[::turn], services(objects[::turn], slices[::turn]), ())
        assert [each.text for each in found.declarations] == expected
        assert declared(found, "10.99.0.1", 8080) == expected[0]


def test_an_ingress_that_cannot_be_read_makes_its_namespace_doubtful() -> None:
    objects = [
        service("web"),
        service("api", type="LoadBalancer"),
        service("far", "other"),
        service("u", ports=[("", 80, 8080, "UDP")]),
    ]
    slices = [
        endpoints("web", "10.99.0.1"),
        endpoints("api", "10.99.0.2"),
        endpoints("far", "10.99.0.3", namespace="other"),
        endpoints("u", "10.99.0.4", ports=[("", 80, 8080, "UDP")]),
    ]
    broken = DeclaredIngress("shop", "web", "", (), ("203.0.113.1",), "spec.rules: is no list")
    found = build_exposure([broken], services(objects, slices), ())
    assert (
        declared(found, "10.99.0.1", 8080)
        == "Ingress shop/web cannot be read and may expose Service shop/web:80"
    )
    assert declared(found, "10.99.0.2", 8080) == "LoadBalancer shop/api:80"  # that is certain
    assert declared(found, "10.99.0.3", 8080) == ""
    assert (
        declared(found, "10.99.0.4", 8080, protocol=17) == "" == declared(found, "10.99.0.4", 8080)
    )
    assert [each.service for each in found.declarations] == ["api", "api", "web"]
    indexes = [found.declared(halves(f"10.99.0.{i}"), *one(6, 8080))[0] for i in (1, 2)]
    assert found.certain[indexes].tolist() == [False, True]


# -- many at once -----------------------------------------------------------------------

HALF = st.sampled_from([0, 1, 2, 1 << 63, WORD, 0xFFFF0A630001])
PACKED = st.sampled_from([0, 1, 80 << 8 | 6, 2**63 - 1])
KINDS = (np.uint64, np.uint64, np.int64)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(HALF, HALF, PACKED)),
    st.lists(st.tuples(HALF, HALF, PACKED), min_size=1),
)
def test_the_table_agrees_with_a_dict(
    rows: list[tuple[int, int, int]], asked: list[tuple[int, int, int]]
) -> None:
    columns = (np.array([row[i] for row in rows], kind) for i, kind in enumerate(KINDS))
    table = FirstMatchTable(TableRows._make((*columns, np.arange(len(rows)))))
    expected: dict[tuple[int, int, int], int] = {}
    for value, row in enumerate(rows):
        expected.setdefault(row, value)
    asked += rows
    addresses = Addresses(*(np.array([each[i] for each in asked], np.uint64) for i in range(2)))
    found = table.look_up(addresses, np.array([word for _, _, word in asked], np.int64))
    assert found.tolist() == [expected.get(each, NOTHING) for each in asked]


def test_what_has_not_changed_is_kept_and_changes_nothing() -> None:
    """A series of changes: one that remembers says what one that does not would."""
    chance, maker = random.Random(23), ExposureBuilder()
    objects: dict[tuple[str, str], KubeService] = {}
    backends: dict[tuple[str, str], dict[tuple[int, int], tuple[BackendAddress, ...]]] = {}
    pods = [f"10.99.0.{i}" for i in range(1, 24)]
    asked = halves(*pods, *pods)
    port = np.repeat(np.array([8080, 8443], np.int64), len(pods))
    protocol = np.full(len(port), 6, np.uint8)
    different = set()
    for step in range(230):
        name = ("shop", f"s{chance.randrange(5)}")
        kind = chance.choice(("ClusterIP", "NodePort", "LoadBalancer"))
        outside = ("203.0.113.1",) if kind == "LoadBalancer" else ()
        fronts = (
            KubeServicePort("http", "TCP", 80, 30080),
            KubeServicePort("https", "TCP", 443, 30443),
        )
        objects[name] = KubeService(*name, "", ("10.99.200.1", *outside), fronts, 0, kind, outside)
        chosen = tuple(map(address_number, chance.sample(pods, chance.randrange(5))))
        backends[name] = {
            (6, 80): tuple(BackendAddress(a, 8080) for a in chosen),
            (6, 443): tuple(BackendAddress(a, 8443) for a in chosen),
        }
        nodes = chance.choices([*pods, "203.0.113.1"], k=2)
        routes = (
            IngressRoute("h.example", "/", "Prefix", Front(f"s{chance.randrange(5)}", 80, "")),
        )
        ingresses = [DeclaredIngress("shop", "i", "", routes, ("203.0.113.1",))]
        view = Services({}, dict(backends), dict(objects))
        found, fresh = (
            maker.exposure(ingresses, view, nodes),
            build_exposure(ingresses, view, nodes),
        )
        same = Services({}, dict(backends), dict(objects))
        assert maker.exposure(list(ingresses), same, nodes) is found
        without = maker.exposure(ingresses, view, ["203.0.113.1"])  # that is a node's now
        assert not without.controls(asked).any()
        maker.exposure(ingresses, view, nodes)
        assert found.declarations == fresh.declarations, step
        peers = halves(*chance.choices(pods, k=len(port)))
        for mine, other in (
            (found.declared(asked, protocol, port), fresh.declared(asked, protocol, port)),
            (found.via(peers, asked, protocol, port), fresh.via(peers, asked, protocol, port)),
        ):
            assert mine.tolist() == other.tolist(), step
            different.add(tuple(mine.tolist()))
    assert len(different) > 100  # the changes did change something


def test_no_ends_and_no_declarations() -> None:
    found = build_exposure((), Services({}, {}), ())
    nothing = Addresses(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    ports = np.zeros(0, np.uint8), np.zeros(0, np.int64)
    assert (
        found.declared(nothing, *ports).tolist()
        == found.via(nothing, nothing, *ports).tolist()
        == []
    )
    assert declared(found, "10.99.0.1", 80) == via(found, "10.99.0.1", "10.99.0.1", 80) == ""
    assert found.certain.tolist() == []

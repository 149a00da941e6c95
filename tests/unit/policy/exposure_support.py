# SPDX-License-Identifier: Apache-2.0
"""A cluster's Services, Ingresses and the pods that they expose, for tests."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.interface_endpoints import address_number
from podtally.identity.services import Services
from podtally.kube.model import ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.policy.exposure.exposures import Exposure
from podtally.policy.exposure.table import NOTHING
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load.parser import read_text
from podtally.policy.vector.addresses import Addresses
from tests.unit.kube_json import Json, list_of, stamp

DECODERS = {resource.name: resource for resource in RESOURCES}
WORD = (1 << 64) - 1
SECOND = 1_000_000_000

CONTROLLER: Json = {
    "name": "ctl",
    "namespace": "edge",
    "ports": [("http", 80, 8080), ("https", 443, 8443)],
}
WEB_INGRESS = """
metadata: {name: web, namespace: shop}
spec: {rules: [{host: shop.example, http: {paths: [
  {path: /cart, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
"""


def service(
    name: str, namespace: str = "shop", ports: Any = (("", 80, 8080),), **spec: Any
) -> Json:
    """Ports are name, number, the pods' own, and if need be a protocol and a node port."""
    status = {"loadBalancer": {"ingress": spec.pop("balanced", [])}}
    listed = [
        {"name": p[0], "port": p[1], "protocol": (*p, "TCP")[3], "nodePort": p[4] if p[4:] else 0}
        for p in ports
    ]
    meta = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": stamp(1e9),
    }
    return {
        "metadata": meta,
        "spec": {"clusterIP": "10.99.200.1", "ports": listed, **spec},
        "status": status,
    }


def endpoints(
    name: str, *addresses: str, namespace: str = "shop", ports: Any = (("", 80, 8080),)
) -> Json:
    family = "IPv6" if ":" in addresses[0] else "IPv4"
    listed = [{"name": p[0], "port": p[2], "protocol": (*p, "TCP")[3]} for p in ports]
    meta = {
        "name": f"{name}-{family}-{listed[0]['port']}",
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": name},
    }
    return {
        "metadata": meta,
        "addressType": family,
        "ports": listed,
        "endpoints": [{"addresses": [a]} for a in addresses],
    }


def services(
    objects: Iterable[Json],
    slices: Iterable[Json],
    cluster: ClusterState | None = None,
    at_ns: int = SECOND,
) -> Services:
    """As the API reports them."""
    cluster = cluster or ClusterState("here")
    clocks = Clocks(at_ns, at_ns)
    for resource, items in (("services", objects), ("endpointslices", slices)):
        decoded = DECODERS[resource].decode_list(list_of(*items)).objects
        cluster.apply(ObjectPage(resource, decoded, True, True, at_ns), clocks)
    cluster.settle(clocks)
    return cluster.services()


def ingress(text: str, *addresses: str) -> DeclaredIngress:
    (found,) = read_text("apiVersion: networking.k8s.io/v1\nkind: Ingress\n" + text, "t").ingresses
    return found._replace(addresses=addresses)


def to(backend: str, name: str = "web", **more: Any) -> DeclaredIngress:
    """An Ingress of one route; ``backend`` is YAML."""
    route = {"path": "/", "pathType": "Prefix", "backend": yaml.safe_load(backend)}
    rule = {"host": "shop.example", "http": {"paths": [route]}}
    return ingress(
        yaml.safe_dump(
            {"metadata": {"name": name, "namespace": "shop"}, "spec": {"rules": [rule]}, **more}
        )
    )


def halves(*addresses: str) -> Addresses:
    numbers = [address_number(address) if address else 0 for address in addresses]
    return Addresses(
        np.array([n >> 64 for n in numbers], np.uint64),
        np.array([n & WORD for n in numbers], np.uint64),
    )


def one(protocol: int, port: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.array([protocol], np.uint8), np.array([port], np.int64)


def declared(found: Exposure, address: str, port: int, protocol: int = 6) -> str:
    (index,) = found.declared(halves(address), *one(protocol, port)).tolist()
    return "" if index == NOTHING else found.declarations[index].text


def via(found: Exposure, peer: str, address: str, port: int) -> str:
    (index,) = found.via(halves(peer), halves(address), *one(6, port)).tolist()
    return "" if index == NOTHING else found.declarations[index].via


def controls(found: Exposure, peer: str) -> bool:
    return bool(found.controls(halves(peer))[0])

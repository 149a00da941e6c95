# SPDX-License-Identifier: Apache-2.0
"""Parties, policies and questions for tests; and those of a case in ../shared/netpol's format."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from podtally.policy.model import (
    ADDRESS,
    EVERYTHING,
    NODE,
    POD,
    TCP,
    Block,
    NamedPort,
    Network,
    PodSubject,
    Policy,
    PolicyEndpoint,
    Question,
    Requirement,
    Rule,
    Selector,
)

MAPPED = 0xFFFF << 32
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


def ip(text: str) -> int:
    address = ipaddress.ip_address(text)
    return int(address) | (MAPPED if address.version == 4 else 0)


def network(text: str) -> Network:
    parsed = ipaddress.ip_network(text)
    if parsed.version == 4:
        return Network(int(parsed.network_address) | MAPPED, parsed.prefixlen + 96)
    return Network(int(parsed.network_address), parsed.prefixlen)


def block(cidr: str, *excepted: str) -> Block:
    return Block(network(cidr), tuple(map(network, excepted)))


def labelled(**labels: str) -> Selector:
    return Selector(tuple(Requirement(k, "In", frozenset((v,))) for k, v in labels.items()))


def labels(values: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((values or {}).items()))


def pod(name: str, address: str = "10.99.0.1", **more: Any) -> PolicyEndpoint:
    """``namespace/name``; the label ``app`` is the name, by default."""
    namespace, _, short = name.partition("/")
    endpoint = PolicyEndpoint(POD, namespace, short, (("app", short),), ips=(ip(address),))
    return endpoint._replace(**more)


def outside(address: str = "203.0.113.9") -> PolicyEndpoint:
    return PolicyEndpoint(ADDRESS, ips=(ip(address),))


def node(name: str, address: str, **more: str) -> PolicyEndpoint:
    return PolicyEndpoint(NODE, name=name, ips=(ip(address),), node=name, node_labels=labels(more))


def policy(name: str, **fields: Any) -> Policy:
    """A NetworkPolicy over all pods of its namespace, with what the fields say."""
    namespace, _, short = name.rpartition("/")
    whole: dict[str, Any] = {
        "kind": "NetworkPolicy",
        "namespace": namespace,
        "name": short,
        "subject": PodSubject(None, EVERYTHING),
    }
    return Policy(**{**whole, **fields})


def rules(*written: Rule) -> tuple[Rule, ...]:
    return tuple(rule._replace(index=index) for index, rule in enumerate(written))


def ask(
    source: PolicyEndpoint, destination: PolicyEndpoint, port: int = 80, protocol: int = TCP
) -> Question:
    """In the first family that both have."""
    return Question(source, destination, protocol, port, *addresses(source.ips, destination.ips))


def addresses(sources: Sequence[int], destinations: Sequence[int]) -> tuple[int, int]:
    for one in sources:
        for other in destinations:
            if (one >> 32 == 0xFFFF) == (other >> 32 == 0xFFFF):
                return one, other
    raise ValueError("the two have no family in common")


class World:
    """The parties of a case, and its probes as questions."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        namespaces = {n["name"]: labels(n.get("labels")) for n in case["namespaces"]}
        nodes = {n["name"]: _node(n) for n in case.get("nodes") or ()}
        self._nodes = {address: node for node in nodes.values() for address in node.ips}
        self._pods = {}
        for entry in case["pods"]:
            endpoint = _pod(entry)._replace(namespace_labels=namespaces[entry["namespace"]])
            if endpoint.node in nodes:
                endpoint = endpoint._replace(node_labels=nodes[endpoint.node].node_labels)
            self._pods[f"{endpoint.namespace}/{endpoint.name}"] = endpoint

    def question(self, probe: Mapping[str, Any]) -> Question:
        (source, sources), (destination, destinations) = (
            self._end(probe[key], probe.get("family")) for key in ("from", "to")
        )
        protocol = PROTOCOLS[probe["protocol"]]
        chosen = addresses(sources, destinations)
        return Question(source, destination, protocol, probe["port"], *chosen)

    def _end(
        self, end: Mapping[str, str], family: str | None
    ) -> tuple[PolicyEndpoint, tuple[int, ...]]:
        if "pod" in end:
            endpoint = self._pods[end["pod"]]
            wanted = [a for a in endpoint.ips if family is None or (family == "IPv4") == _is_v4(a)]
            return endpoint, tuple(wanted)
        address = ip(end["ip"])
        return self._nodes.get(address) or outside(end["ip"]), (address,)


def _is_v4(address: int) -> bool:
    return address >> 32 == 0xFFFF


def _node(entry: Mapping[str, Any]) -> PolicyEndpoint:
    addresses = tuple(map(ip, entry["ips"]))
    name = entry["name"]
    return PolicyEndpoint(
        NODE, name=name, ips=addresses, node=name, node_labels=labels(entry.get("labels"))
    )


def _pod(entry: Mapping[str, Any]) -> PolicyEndpoint:
    ports = tuple(
        NamedPort(port["name"], PROTOCOLS[port.get("protocol", "TCP")], port["port"])
        for port in entry.get("ports") or ()
        if port.get("name")
    )
    return PolicyEndpoint(
        POD,
        entry["namespace"],
        entry["name"],
        labels(entry.get("labels")),
        ips=tuple(map(ip, entry["ips"])),
        ports=ports,
        node=entry.get("node") or "",
        host_network=bool(entry.get("host_network")),
    )

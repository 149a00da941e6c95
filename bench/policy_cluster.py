# SPDX-License-Identifier: Apache-2.0
"""A big cluster for ``judge``: pods of deployments, policies of five rules, pairs of ends."""

import random

import numpy as np

from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    DENY,
    EVERYTHING,
    PASS,
    POD,
    TCP,
    UDP,
    Block,
    NamedPort,
    Network,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from podtally.policy.vector.evaluator import ADDRESS_INDEX, PackedConnections

PODS, PODS_A_WORKLOAD, NAMESPACES = 10_000, 10, 50
POLICIES, CLUSTER_POLICIES, RULES = 1_000, 20, 5
PAIRS = 100_000

_MAPPED = 0xFFFF << 32
_V4_PODS, _V6_PODS = _MAPPED | 10 << 24, 0xFD00_0000_0000_0001 << 64
_WORD = (1 << 64) - 1
_PORTS = (53, 80, 443, 3000, 3306, 5432, 8080, 9090)


def endpoints() -> list[PolicyEndpoint]:
    return [_pod(number) for number in range(PODS)]


def _pod(number: int) -> PolicyEndpoint:
    workload = number // PODS_A_WORKLOAD
    namespace = f"team-{workload % NAMESPACES}"
    labels = (
        ("app", f"app-{workload}"),
        ("pod-template-hash", f"{workload * 2654435761 % (1 << 32):08x}"),
        ("tier", ("web", "api", "db", "job")[workload % 4]),
    )
    return PolicyEndpoint(
        POD,
        namespace,
        f"app-{workload}-{number}",
        labels,
        (("kubernetes.io/metadata.name", namespace), ("stage", ("prod", "test")[workload % 2])),
        (_V4_PODS + number, _V6_PODS + number),
        (NamedPort("http", TCP, (8080, 3000)[workload % 2]), NamedPort("metrics", TCP, 9090)),
        f"node-{number % 100}",
    )


def policies(chance: random.Random) -> list[Policy]:
    cluster = [_cluster_policy(number, chance) for number in range(CLUSTER_POLICIES)]
    return cluster + [_policy(number, chance) for number in range(POLICIES - CLUSTER_POLICIES)]


def _cluster_policy(number: int, chance: random.Random) -> Policy:
    subject = PodSubject(_labelled("stage", chance.choice(("prod", "test"))))
    rules = tuple(
        Rule(index, chance.choice((ALLOW, DENY, PASS)), (_peer(chance),), _ports(chance))
        for index in range(RULES)
    )
    name = f"cluster-{number}"
    kind = "ClusterNetworkPolicy"
    return Policy(kind, "", name, subject, rules, rules, ADMIN_TIER, number)


def _policy(number: int, chance: random.Random) -> Policy:
    namespace = number % NAMESPACES
    workload = chance.randrange(PODS // PODS_A_WORKLOAD // NAMESPACES) * NAMESPACES + namespace
    pods = chance.choice(
        (_labelled("app", f"app-{workload}"), _labelled("tier", "web"), EVERYTHING)
    )
    ingress, egress = (
        tuple(Rule(index, ALLOW, (_peer(chance),), _ports(chance)) for index in range(count))
        for count in (RULES // 2, RULES - RULES // 2)
    )
    name = f"policy-{number}"
    subject = PodSubject(None, pods)
    return Policy("NetworkPolicy", f"team-{namespace}", name, subject, ingress, egress)


def _peer(chance: random.Random) -> Peer:
    kind = chance.random()
    if kind < 0.3:
        return PodPeer(None, _labelled("tier", chance.choice(("web", "api", "db"))))
    if kind < 0.6:
        app = f"app-{chance.randrange(PODS // PODS_A_WORKLOAD)}"
        return PodPeer(_labelled("stage", "prod"), _labelled("app", app))
    if kind < 0.8:
        return PodPeer(_labelled("kubernetes.io/metadata.name", f"team-{chance.randrange(50)}"))
    first = _MAPPED | 198 << 24 | chance.randrange(18, 20) << 16
    return Block(Network(first, 112), (Network(first | chance.randrange(256) << 8, 120),))


def _labelled(key: str, value: str) -> Selector:
    return Selector((Requirement(key, "In", frozenset((value,))),))


def _ports(chance: random.Random) -> tuple[PolicyPort, ...] | None:
    kind = chance.random()
    if kind < 0.2:
        return None
    if kind < 0.4:
        return (PolicyPort(TCP, name=chance.choice(("http", "metrics"))),)
    number = chance.choice(_PORTS)
    return (PolicyPort(TCP, number, number + chance.choice((0, 0, 100))), PolicyPort(UDP, 53, 53))


def pairs(chance: random.Random, endpoints: list[PolicyEndpoint]) -> PackedConnections:
    """Return distinct pairs; half of them between pods, some in IPv6."""
    seen: dict[tuple[int, int, int, int, int, bool], None] = {}
    while len(seen) < PAIRS:
        local, family = chance.randrange(PODS), chance.choice((0, 0, 0, 1))
        if chance.random() < 0.5:
            peer = chance.randrange(PODS)
            ip = endpoints[peer].ips[family]
        else:
            peer = ADDRESS_INDEX
            ip = _MAPPED | 198 << 24 | 18 << 16 | chance.randrange(1 << 17)
        how = chance.choice(((TCP, chance.choice(_PORTS)), (UDP, 53)))
        seen[local, peer, ip, *how, chance.random() < 0.5] = None
    local_, peer_, ip_, protocol, port, is_egress = zip(*seen, strict=True)
    return PackedConnections(
        np.array(local_, np.int32),
        np.array(peer_, np.int32),
        np.array([address >> 64 for address in ip_], np.uint64),
        np.array([address & _WORD for address in ip_], np.uint64),
        np.array(protocol, np.int32),
        np.array(port, np.int32),
        np.array(is_egress, np.bool_),
    )

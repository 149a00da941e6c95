# SPDX-License-Identifier: Apache-2.0
"""Small random clusters for the differential test: everything that policies can express."""

import random
from typing import NamedTuple

from podtally.dns.known_names import (
    ENCRYPTED_DNS,
    NAMES_OFF,
    NO_NAMES,
    SEEN_LATE,
    Answered,
    KnownNames,
)
from podtally.policy.domain_patterns import WILDCARD
from podtally.policy.model import (
    ADDRESS,
    ADMIN_TIER,
    ALLOW,
    ANY_PROTOCOL,
    BASELINE_TIER,
    DENY,
    HOST,
    LAST_PORT,
    NETWORK_TIER,
    NODE,
    PASS,
    POD,
    SCTP,
    TCP,
    UDP,
    UNIDENTIFIED,
    Block,
    DomainPeer,
    HostSubject,
    NamedPort,
    Network,
    NodePeer,
    Peer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from podtally.runtimes.model import Labels

NAMESPACES, NODES = ("red", "green", "blue"), ("n1", "n2")
KEYS, VALUES = ("a", "b", "kubernetes.io/metadata.name"), ("", "x", "y", *NAMESPACES[:2])
NUMBERS, NAMES = (0, 1, 53, 80, 81, 8080, LAST_PORT), ("web", "dns", "none")
ICMP = 1
PROTOCOLS = (TCP, TCP, UDP, SCTP, ICMP)
DOMAIN_LABELS = ("a", "b", "c")
NOW, EXPIRES = 1.8e9, (-3600.0, -1e-3, 0.0, 30.0)  # seconds
_MAPPED = 0xFFFF << 32
_V4, _V6 = _MAPPED | 10 << 24 | 99 << 16, 0x20010DB8 << 96  # 10.99.0.0, 2001:db8::
_SPREAD = 64  # addresses of each family


class World(NamedTuple):
    policies: list[Policy]
    endpoints: list[PolicyEndpoint]
    by_service: bool = False  # what a pod sends to itself goes through a Service


class Probe(NamedTuple):
    """One end's view; ``peer`` is a number of a party, -1 an address, -2 unknown."""

    local: int
    peer: int
    ip: int
    protocol: int
    port: int
    is_egress: bool
    names: KnownNames = NO_NAMES  # of the peer


class Maker:
    """Makes worlds; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._by_name = 0.5 if seed % 3 == 0 else 0.0  # peers of rules that allow

    def world(self) -> World:
        chance = self._random
        namespaces = {name: self._labels() for name in NAMESPACES}
        nodes = {name: self._labels() for name in NODES}
        endpoints = [self.pod(namespaces, nodes) for _ in range(chance.randint(4, 16))]
        endpoints += [
            PolicyEndpoint(NODE, name=name, ips=(self._ip(),), node=name, node_labels=labels)
            for name, labels in nodes.items()
        ]
        endpoints += [self._host() for _ in range(chance.randint(0, 4))]
        endpoints += [PolicyEndpoint(UNIDENTIFIED), PolicyEndpoint(ADDRESS, ips=(self._ip(),))]
        policies = [self.policy() for _ in range(chance.randint(0, 24))]
        return World(policies, endpoints, chance.random() < 0.5)

    def probe(self, endpoints: list[PolicyEndpoint]) -> Probe:
        chance = self._random
        pods = sum(endpoint.kind == POD for endpoint in endpoints)  # they come first
        local = chance.randrange(pods if chance.random() < 0.8 else len(endpoints))
        peer = chance.randrange(-2, len(endpoints))
        known = endpoints[peer].ips if peer >= 0 else ()
        ip = chance.choice((*known, self._ip())) if chance.random() < 0.95 else 0
        port = chance.choice(NUMBERS)  # 0: not known
        how = (chance.choice(PROTOCOLS), port, chance.random() < 0.5)
        return Probe(local, peer, ip, *how, self._known_names())

    def _known_names(self) -> KnownNames:
        """Answers in any order, some expired, some not trusted; often none."""
        chance = self._random
        names = [self.domain_name() for _ in range(chance.choice((0, 0, 1, 1, 2, 3)))]
        answers = tuple(
            Answered(name, NOW - chance.choice((0, 5, 60)), NOW + chance.choice(EXPIRES), *kind)
            for name, *kind in dict.fromkeys(
                (n, chance.random() < 0.8, chance.random() < 0.1) for n in names
            )
        )
        return KnownNames(answers, NOW, chance.choice((0, 0, NAMES_OFF, SEEN_LATE | ENCRYPTED_DNS)))

    def domain_name(self) -> str:
        chance = self._random
        return ".".join(chance.choice(DOMAIN_LABELS) for _ in range(chance.randint(1, 4)))

    def _domains(self, allows: bool) -> DomainPeer:
        """Names and wildcards, sometimes one twice or one within another."""
        chance = self._random
        names = [
            WILDCARD * (chance.random() < 0.4) + self.domain_name()
            for _ in range(chance.randint(1, 3))
        ]
        return DomainPeer(tuple(dict.fromkeys(names)), allows)

    def place(self, below: int) -> int:
        return self._random.randrange(below)

    def pod(
        self, namespaces: dict[str, Labels | None], nodes: dict[str, Labels | None]
    ) -> PolicyEndpoint:
        """Its namespace and its node have no labels if they are not among those given."""
        chance = self._random
        namespace, node = chance.choice(NAMESPACES), chance.choice((*NODES, ""))
        ports = tuple(
            NamedPort(chance.choice(NAMES[:2]), chance.choice(PROTOCOLS), chance.choice(NUMBERS))
            for _ in range(chance.randint(0, 3))
        )
        return PolicyEndpoint(
            POD,
            namespace,
            chance.choice("pqrstuvw") if chance.random() < 0.95 else "",
            self._labels(),
            namespaces.get(namespace, ()),
            (self._ip(),),
            ports if chance.random() < 0.93 else None,
            node,
            nodes.get(node, ()),
            chance.random() < 0.1,
        )

    def policy(self) -> Policy:
        chance = self._random
        tier = chance.choice((ADMIN_TIER, *(NETWORK_TIER,) * 4, BASELINE_TIER))
        if tier == NETWORK_TIER and chance.random() < 0.2:
            return self._made(tier, "HostPolicy", "", self._hosts())
        if tier == NETWORK_TIER:
            subject = PodSubject(None, self._selector())
            return self._made(tier, "NetworkPolicy", chance.choice(NAMESPACES), subject)
        subject = PodSubject(self._selector(), self._selector())
        return self._made(tier, "ClusterNetworkPolicy", "", subject)

    def _made(self, tier: int, kind: str, namespace: str, subject: Subject) -> Policy:
        chance = self._random
        ingress, egress = (
            tuple(self._rule(index, tier) for index in range(chance.randint(0, 4)))
            if chance.random() < 0.7
            else None
            for _ in range(2)
        )
        unreadable = "it is broken" if chance.random() < 0.05 else ""
        untouched = chance.choice(("", "", "ingress", "egress")) if unreadable else ""
        priority = chance.randint(0, 3) if tier != NETWORK_TIER else 0
        name = f"p{chance.randrange(1 << 30)}"
        return Policy(
            *(kind, namespace, name, subject, ingress, egress, tier, priority, False),
            *(unreadable, untouched),
        )

    def _rule(self, index: int, tier: int) -> Rule:
        chance = self._random
        action = ALLOW if tier == NETWORK_TIER else chance.choice((ALLOW, DENY, PASS))
        peers: tuple[Peer, ...] | None = None
        if chance.random() < 0.85:
            allows = action == ALLOW and tier != BASELINE_TIER
            peers = tuple(self._peer(allows) for _ in range(chance.choice((0, 1, 1, 1, 2, 3))))
        ports: tuple[PolicyPort, ...] | None = None
        if chance.random() < 0.6:
            ports = tuple(self._port() for _ in range(chance.choice((0, 1, 1, 2, 3))))
        return Rule(index, action, peers, ports)

    def _peer(self, allows: bool) -> Peer:
        chance = self._random
        kind = chance.random()
        if allows and kind < self._by_name:
            return self._domains(allows)
        if kind < 0.4:
            return PodPeer(None if chance.random() < 0.4 else self._selector(), self._selector())
        if kind < 0.8:
            return self._block()
        if kind < 0.88:
            return NodePeer(self._selector())
        return self._hosts() if kind < 0.92 else self._domains(allows)

    def _block(self) -> Block:
        chance = self._random
        whole = self._network(chance.choice((0, 8, 24, 26, 28, 30, 32)))
        excepted = (
            self._network(chance.choice((25, 28, 30, 31, 32))) for _ in range(chance.randint(0, 3))
        )
        return Block(whole, tuple(excepted))

    def _network(self, bits: int) -> Network:
        """Of either family; those of IPv6 have the bits at their end."""
        ip = self._ip()
        fixed = 96 + bits if ip >> 32 == 0xFFFF or bits >= 24 else bits
        return Network(ip >> (128 - fixed) << (128 - fixed), fixed)

    def _ip(self) -> int:
        first = _V4 if self._random.random() < 0.6 else _V6
        return first + self._random.randrange(_SPREAD)

    def _port(self) -> PolicyPort:
        chance = self._random
        kind, protocol = chance.random(), chance.choice(PROTOCOLS[:4])
        if kind < 0.3:
            named = chance.choice((protocol, ANY_PROTOCOL))
            return PolicyPort(named, name=chance.choice(NAMES))
        if kind < 0.5:
            return PolicyPort(protocol)
        first, last = sorted(chance.choices(NUMBERS, k=2))
        return PolicyPort(protocol, first, last if kind < 0.7 else first)

    def _selector(self) -> Selector:
        chance = self._random
        return Selector(
            tuple(self._requirement() for _ in range(chance.choice((0, 0, 0, 1, 1, 2))))
        )

    def _requirement(self) -> Requirement:
        chance = self._random
        operator = chance.choice(("In", "In", "NotIn", "Exists", "DoesNotExist"))
        values = chance.sample(VALUES, chance.randint(1, 3)) if "In" in operator else ()
        return Requirement(chance.choice(KEYS), operator, frozenset(values))

    def _labels(self) -> Labels | None:
        chance = self._random
        if chance.random() < 0.08:
            return None
        return tuple((key, chance.choice(VALUES)) for key in KEYS[:2] if chance.random() < 0.6)

    def _hosts(self) -> HostSubject:
        chance = self._random
        labels = self._selector() if chance.random() < 0.5 else None
        units = ("ssh*",) if chance.random() < 0.4 else ()
        containers = ("c-?",) if chance.random() < 0.4 else ()
        return HostSubject(labels, units, containers, chance.random() < 0.3)

    def _host(self) -> PolicyEndpoint:
        chance = self._random
        return PolicyEndpoint(
            HOST,
            labels=self._labels(),
            ips=(self._ip(),),
            node=chance.choice((*NODES, "")),
            host_network=chance.random() < 0.5,
            unit=chance.choice(("", "sshd.service", "cron.service")),
            container=chance.choice(("", "c-1", "other")),
        )

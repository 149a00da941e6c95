# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name for the judging benchmark: lists of names, and flows with names."""

from typing import NamedTuple

import numpy as np

from podtally.dns.candidates import NameCandidates, name_column
from podtally.policy.model import (
    ALLOW,
    DENY,
    EVERYTHING,
    POD,
    TCP,
    Block,
    DomainPeer,
    Network,
    PodSubject,
    Policy,
    PolicyEndpoint,
    Rule,
)
from podtally.policy.vector.evaluator import ADDRESS_INDEX, Evaluator, PackedConnections

NAMES, DOMAINS, LISTS, RULES_A_POLICY = 5_000, 200, 200, 20
_MAPPED = 0xFFFF << 32
_AT = 1e9


class NamedWorld(NamedTuple):
    evaluator: Evaluator
    names: tuple[str, ...]


def world() -> NamedWorld:
    """LISTS rules of ten names and a wildcard each, then a denial of everything else."""
    chance = np.random.default_rng(6)
    names = tuple(f"n{number}.d{number % DOMAINS}.example.com" for number in range(NAMES))
    lists = [
        DomainPeer((*(names[i] for i in chance.integers(0, NAMES, 10)), f"*.d{n}.example.com"))
        for n in range(LISTS)
    ]
    subject = PodSubject(EVERYTHING)
    kind = "ClusterNetworkPolicy"
    policies = []
    for number, first in enumerate(range(0, LISTS, RULES_A_POLICY)):
        some = lists[first : first + RULES_A_POLICY]
        rules = tuple(Rule(index, ALLOW, (peer,)) for index, peer in enumerate(some))
        policies.append(Policy(kind, "", f"p{number}", subject, None, rules, 0, number))
    rest = (Rule(0, DENY, (Block(Network(_MAPPED, 96)),)),)
    policies.append(Policy(kind, "", "rest", subject, None, rest, 0, 999))
    web = PolicyEndpoint(POD, "shop", "web", (("app", "web"),), ips=(_MAPPED | 1,))
    return NamedWorld(Evaluator(policies, [web]), names)


def flows(given: NamedWorld, count: int, pairs: int, seed: int) -> PackedConnections:
    """Connections to ``pairs`` addresses; each has two names, and a tenth has expired answers."""
    pick = np.random.default_rng(seed).integers(0, pairs, count)
    numbers = np.stack([pick % NAMES, pick * 7 % NAMES], 1).ravel().astype(np.int32)
    candidates = NameCandidates(
        table=given.names,
        offsets=np.arange(0, 2 * count + 1, 2),
        names=numbers,
        answered=np.full(2 * count, _AT - 10),
        expires=_AT + np.where(np.arange(2 * count) % 20 < 2, -1.0, 20.0),
        trusted=np.ones(2 * count, np.bool_),
        hint=np.zeros(2 * count, np.bool_),
        at=np.full(count, _AT),
        missing=np.zeros(count, np.uint8),
    )
    return PackedConnections(
        np.zeros(count, np.int32),
        np.full(count, ADDRESS_INDEX, np.int32),
        np.zeros(count, np.uint64),
        np.uint64(_MAPPED) | pick.astype(np.uint64),
        np.full(count, TCP, np.int32),
        np.full(count, 443, np.int32),
        np.ones(count, np.bool_),
        name_column(candidates),
    )

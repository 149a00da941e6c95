# SPDX-License-Identifier: Apache-2.0
"""Answers that a pod got, and verdicts by them."""

from typing import NamedTuple

import numpy as np

from podtally.dns.candidates import from_lists, name_column
from podtally.dns.known_names import (
    Answered,
    KnownNames,
)
from podtally.policy.explain.reasons import direction_reason
from podtally.policy.model import (
    ADDRESS,
    ALLOW,
    EGRESS,
    EVERYTHING,
    UNIDENTIFIED,
    VERDICTS,
    DomainPeer,
    PodSubject,
    Policy,
    Question,
    Rule,
)
from podtally.policy.reference.engine import Engine, rule_input
from podtally.policy.vector.evaluator import (
    ADDRESS_INDEX,
    UNKNOWN_INDEX,
    Evaluator,
    PackedConnections,
)
from tests.unit.policy.policy_support import ask, outside, pod, policy, rules

AT = 1_800_000_000.0
WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
CLOSED = policy("shop/closed", egress=())


class Judged(NamedTuple):
    verdict: str
    reason: str
    strict: str  # the verdict where answers end with their TTL


def answered(name: str, ago: float = 12, ttl: float = 30, trusted: bool = True) -> Answered:
    return Answered(name, AT - ago, AT - ago + ttl, trusted)


def known(*answers: Answered | str, missing: int = 0) -> KnownNames:
    written = tuple(answered(a) if isinstance(a, str) else a for a in answers)
    return KnownNames(written, AT, missing)


def admin(*written: Rule, name: str = "payments", priority: int = 10) -> Policy:
    """Of the admin tier, over all pods."""
    subject, egress = PodSubject(EVERYTHING), rules(*written)
    return Policy("ClusterNetworkPolicy", "", name, subject, None, egress, 0, priority)


def by_name(*names: str, action: str = ALLOW) -> Rule:
    return Rule(0, action, (DomainPeer(names, action == ALLOW),))


def judge(names: KnownNames, *policies: Policy, question: Question | None = None) -> Judged:
    """Judge an egress by both engines, which must agree."""
    question = (question or ask(WEB, outside(), 443))._replace(names=names)
    engine, conn = Engine(policies), rule_input(question, EGRESS)
    plain = engine.direction_verdict(conn)
    strict = engine.direction_verdict(conn._replace(names=names.valid())).verdict
    found = Judged(plain.verdict, direction_reason(plain, conn), strict)
    compiled = Evaluator(policies, (question.source, question.destination))
    peer = {ADDRESS: ADDRESS_INDEX, UNIDENTIFIED: UNKNOWN_INDEX}.get(question.destination.kind, 1)
    packed = PackedConnections(
        np.zeros(1, np.int32),
        np.array([peer], np.int32),
        np.array([question.destination_ip >> 64], np.uint64),
        np.array([question.destination_ip & (1 << 64) - 1], np.uint64),
        np.array([question.protocol], np.int32),
        np.array([question.port], np.int32),
        np.ones(1, np.bool_),
        name_column(from_lists([names.answers], [names.at], [names.missing])),
    )
    other = compiled.judge(packed)
    number = int(other.outcome[0])
    assert compiled.outcome(number) == plain
    assert compiled.reason(packed, 0, number) == found.reason
    assert VERDICTS[int(other.strict[0])] == strict
    return found

# SPDX-License-Identifier: Apache-2.0
"""Reasons in words, and the policies that decided as a label."""

import pytest

from podtally.policy.explain.reasons import deciding_policies, reason
from podtally.policy.model import (
    ALLOW,
    DENY,
    EVERYTHING,
    TCP,
    UDP,
    DomainPeer,
    NamedPort,
    NodePeer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Question,
    Rule,
)
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_support import ask, block, labelled, node, outside, pod, policy, rules

WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
FROM_WEB = rules(Rule(0, ALLOW, (PodPeer(None, labelled(app="web")),)))


def admin(name: str, rule: Rule) -> Policy:
    """Of the admin tier, over all pods."""
    subject = PodSubject(EVERYTHING)
    return policy(name, kind="ClusterNetworkPolicy", subject=subject, egress=(rule,), tier=0)


REASONS = [
    (ask(WEB, DB), [], "no policy isolates shop/web in egress; no policy isolates shop/db in ingress"),
    (ask(WEB, DB), [policy("shop/p", ingress=FROM_WEB)], "shop/p ingress[0]"),
    (
        ask(WEB, DB, 5432),
        [
            policy("shop/dns", egress=rules(Rule(0, ALLOW, None, (PolicyPort(UDP, 53, 53),)))),
            policy(
                "shop/db",
                egress=rules(
                    Rule(0, ALLOW, (PodPeer(None, labelled(app="web")),)),
                    Rule(0, ALLOW, (PodPeer(None),), (PolicyPort(TCP, 3306, 3306),)),
                ),
            ),
        ],
        "denied by default: shop/db and shop/dns select it and no egress rule allows this; nearest shop/db egress[0]: shop/db has app=db, not app=web",
    ),
    (
        ask(WEB, DB, 5432),
        [policy("shop/db", egress=rules(Rule(0, ALLOW, (PodPeer(None),), (PolicyPort(TCP, 3306, 3306),))))],
        "denied by default: shop/db selects it and no egress rule allows this; nearest shop/db egress[0]: port 5432 is not 3306",
    ),
    (
        ask(WEB, outside("203.0.113.10"), 3306),
        [policy("shop/db", egress=rules(Rule(0, ALLOW, (block("203.0.113.0/24", "203.0.113.10/32"),))))],
        "denied by default: shop/db selects it and no egress rule allows this; nearest shop/db egress[0]: 203.0.113.10 is in 203.0.113.10/32, excepted from 203.0.113.0/24",
    ),
    (
        ask(WEB, DB, 80, UDP),
        [policy("shop/p", egress=rules(Rule(0, ALLOW, None, (PolicyPort(TCP, 80, 80), PolicyPort(TCP, 90, 99)))))],
        "denied by default: shop/p selects it and no egress rule allows this; nearest shop/p egress[0]: UDP is not TCP",
    ),
    (
        ask(WEB, DB, 80),
        [policy("shop/p", egress=rules(Rule(0, ALLOW, None, (PolicyPort(TCP, name="sql"), PolicyPort(TCP, 90, 99)))))],
        "denied by default: shop/p selects it and no egress rule allows this; nearest shop/p egress[0]: port 80 is not sql (shop/db has none) or 90-99",
    ),
    (
        ask(WEB, DB),
        [policy("shop/p", egress=())],
        "denied by default: shop/p selects it and no egress rule allows this",
    ),
    (
        ask(WEB, DB),
        [admin("deny", Rule(0, DENY, (PodPeer(EVERYTHING),), None, "no talk"))],
        "ClusterNetworkPolicy/deny egress[0] (no talk)",
    ),
    (
        ask(WEB, outside()),
        [admin("p", Rule(0, ALLOW, (DomainPeer(("a.example", "b.example")),)))],
        "ClusterNetworkPolicy/p egress[0]: whether a.example or b.example resolves to 203.0.113.9 is unknown: DNS is not captured",
    ),
    (
        ask(WEB._replace(namespace="bank"), DB),
        [policy("shop/p", ingress=rules(Rule(0, ALLOW, (PodPeer(labelled(team="a")),))))],
        "denied by default: shop/p selects it and no ingress rule allows this; nearest shop/p ingress[0]: namespace bank lacks team=a",
    ),
    (
        ask(WEB, DB),
        [admin("deny", Rule(0, DENY, (PodPeer(EVERYTHING),), None, "\x1b[2J"))],
        "ClusterNetworkPolicy/deny egress[0] ('\\x1b[2J')",
    ),
    (ask(WEB, WEB), [], "shop/web always reaches itself"),
    (
        ask(WEB, DB),
        [policy("shop/p", unreadable="spec: is missing")],
        "shop/p cannot be read: spec: is missing",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("question", "policies", "expected"), REASONS)
def test_reasons(question: Question, policies: list[Policy], expected: str) -> None:
    assert reason(question, Engine(policies).judge(question)) == expected


def test_a_port_that_is_not_known_is_reported_so() -> None:
    by_number = rules(Rule(0, ALLOW, (PodPeer(None),), (PolicyPort(TCP, 80, 80),)))
    by_name = rules(Rule(0, ALLOW, None, (PolicyPort(TCP, name="sql"),)))
    policies = [policy("shop/p", ingress=by_number)]
    question = ask(WEB, DB, 0)
    assert reason(question, Engine(policies).judge(question)) == (
        "shop/p ingress[0]: the port is unknown"
    )
    policies = [policy("shop/p", ingress=by_name)]
    assert reason(question, Engine(policies).judge(question)) == (
        "denied by default: shop/p selects it and no ingress rule allows this; nearest shop/p ingress[0]: "
        "the port is not sql (shop/db has none)"
    )
    hidden = ask(WEB, DB._replace(ports=None), 80)
    assert reason(hidden, Engine(policies).judge(hidden)) == (
        "shop/p ingress[0]: the number of port sql is unknown"
    )
    named = ask(WEB, DB._replace(ports=(NamedPort("sql", TCP, 3306),)), 0)
    assert Engine(policies).judge(named).verdict == "unknown"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], ""),
        ([policy("shop/p", egress=rules(Rule(0, ALLOW)))], "shop/p"),
        ([admin("p", Rule(0, DENY))], "ClusterNetworkPolicy/p"),
        ([policy(f"shop/{name}", egress=()) for name in "ba"], "shop/a,shop/b"),
        (
            [policy(f"shop/{name}", egress=()) for name in "abcde"],
            "shop/a,shop/b,shop/c,shop/d,shop/e",
        ),
        (
            [policy(f"shop/{name}", egress=()) for name in "abcdefg"],
            "shop/a,shop/b,shop/c,shop/d,shop/e,+2",
        ),
        ([policy("shop/p", unreadable="broken")], ""),
    ],
)
def test_the_policies_that_decided_are_a_label(policies: list[Policy], expected: str) -> None:
    assert deciding_policies(Engine(policies).judge(ask(WEB, DB)).egress) == expected


def test_nothing_decides_about_the_own_node_but_an_admin_tier() -> None:
    question = ask(WEB._replace(node="n1"), node("n1", "198.18.0.1"))
    verdict = Engine([policy("shop/closed", egress=())]).judge(question)
    assert deciding_policies(verdict.egress) == ""
    assert reason(question, verdict) == "always allowed: node n1 is the node of shop/web"
    deny = admin("p", Rule(0, DENY, (NodePeer(EVERYTHING),)))
    assert deciding_policies(Engine([deny]).judge(question).egress) == "ClusterNetworkPolicy/p"


def test_a_pod_reaches_itself_in_words() -> None:
    question = ask(WEB, WEB)
    for asked, more in (
        (question, ""),
        (question._replace(by_service=True), ", through a Service where no admin rule denies it"),
    ):
        verdict = Engine([]).judge(asked)
        assert reason(asked, verdict) == f"shop/web always reaches itself{more}"

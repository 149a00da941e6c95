# SPDX-License-Identifier: Apache-2.0
"""The reference engine: each branch of the API's text, and its reason."""

from typing import Any

import pytest

from podtally.policy.explain.steps import explain
from podtally.policy.model import (
    ALLOW,
    ANY_PROTOCOL,
    DENY,
    EVERYTHING,
    HOST,
    PASS,
    SCTP,
    TCP,
    UDP,
    UNIDENTIFIED,
    DomainPeer,
    HostSubject,
    NamedPort,
    NodePeer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Question,
    Requirement,
    Rule,
    Selector,
    Verdict,
)
from podtally.policy.reference import engine
from podtally.policy.reference.engine import Engine
from podtally.policy.reference.selectors import selects, selects_namespace
from tests.unit.policy.policy_support import (
    ask,
    block,
    ip,
    labelled,
    node,
    outside,
    pod,
    policy,
    rules,
)

WEB, DB = pod("shop/web", "10.99.0.1"), pod("shop/db", "10.99.0.2")
UNIDENTIFIED_PEER = PolicyEndpoint(UNIDENTIFIED)
ALL = (Rule(0, ALLOW),)
FROM_WEB = rules(Rule(0, ALLOW, (PodPeer(None, labelled(app="web")),)))


def judge(question: Question, *policies: Policy) -> Verdict:
    return Engine(policies).judge(question)


def admin(name: str, *written: Rule, **fields: Any) -> Policy:
    """Of the admin tier, over all pods, with egress rules."""
    whole: dict[str, Any] = {
        "kind": "ClusterNetworkPolicy",
        "subject": PodSubject(EVERYTHING),
        "egress": rules(*written),
        "tier": 0,
    }
    return policy(name, **{**whole, **fields})


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (EVERYTHING, None, True),
        (labelled(app="web"), None, None),
        (labelled(app="web"), (("app", "web"),), True),
        (labelled(app="web"), (), False),
        (Selector((Requirement("a", "NotIn", frozenset("x")),)), (), True),
        (Selector((Requirement("a", "NotIn", frozenset("x")),)), (("a", "x"),), False),
        (Selector((Requirement("a", "Exists"),)), (("a", ""),), True),
        (Selector((Requirement("a", "DoesNotExist"),)), (("a", ""),), False),
    ],
)
def test_labels_select(selector: Selector, labels: Any, expected: bool | None) -> None:
    assert selects(selector, labels) is expected


def test_an_operator_that_does_not_exist_selects_nothing_silently() -> None:
    with pytest.raises(ValueError, match="Like"):
        selects(Selector((Requirement("a", "Like"),)), ())


def test_a_namespace_has_its_name_as_a_label_even_if_its_labels_are_not_known() -> None:
    named = Selector((Requirement("kubernetes.io/metadata.name", "In", frozenset({"shop"})),))
    assert selects_namespace(named, "shop", None) is True
    assert selects_namespace(named, "bank", None) is False
    assert selects_namespace(labelled(team="a"), "shop", None) is None
    both = Selector((*labelled(team="a").requirements, *named.requirements))
    assert selects_namespace(both, "bank", None) is False


def test_without_policies_everything_is_undeclared() -> None:
    verdict = judge(ask(WEB, DB))
    assert (verdict.verdict, verdict.ingress.cause) == ("undeclared", engine.OPEN)


def test_an_empty_list_isolates_and_an_empty_rule_allows_everything() -> None:
    closed = policy("shop/closed", ingress=())
    assert judge(ask(WEB, DB), closed).verdict == "denied"
    assert judge(ask(WEB, DB), closed, policy("shop/open", ingress=ALL)).verdict == "allowed"


def test_a_rule_that_names_no_peer_or_no_port_allows_nothing() -> None:
    nobody = policy("shop/p", ingress=rules(Rule(0, ALLOW, ())))
    nothing = policy("shop/p", ingress=rules(Rule(0, ALLOW, None, ())))
    assert judge(ask(WEB, DB), nobody).verdict == "denied"
    assert judge(ask(WEB, DB), nothing).verdict == "denied"


def test_each_end_has_its_say() -> None:
    one_way = policy("shop/p", egress=ALL)
    verdict = judge(ask(WEB, DB), one_way, policy("shop/closed", ingress=()))
    assert (verdict.egress.verdict, verdict.ingress.verdict) == ("allowed", "denied")
    assert verdict.verdict == "denied"


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("denied unknown", "denied"),
        ("allowed unknown", "unknown"),
        ("allowed undeclared", "allowed"),
        ("undeclared undeclared", "undeclared"),
    ],
)
def test_what_two_ends_come_to(ends: str, expected: str) -> None:
    one, other = ends.split()
    assert engine.combine(one, other) == engine.combine(other, one) == expected


def test_no_policy_selects_a_pod_of_the_hosts_network_nor_any_selector_as_a_peer() -> None:
    agent = pod("shop/agent", "198.18.0.1", labels=WEB.labels, host_network=True, node="n1")
    verdict = judge(ask(WEB, agent), policy("shop/closed", ingress=()))
    assert (verdict.verdict, verdict.ingress.cause) == ("undeclared", engine.HOST_NETWORK)
    assert judge(ask(agent, DB), policy("shop/p", ingress=FROM_WEB)).verdict == "denied"
    by_address = rules(Rule(0, ALLOW, (block("198.18.0.0/16"),)))
    assert judge(ask(agent, DB), policy("shop/p", ingress=by_address)).verdict == "allowed"


def test_a_pod_reaches_itself_and_its_own_node_but_no_other() -> None:
    web = WEB._replace(node="n1")
    closed = policy("shop/closed", ingress=(), egress=())
    own, other = node("n1", "198.18.0.1"), node("n2", "198.18.0.2")
    assert judge(ask(web, web), closed).ingress.cause == engine.LOOPBACK
    assert judge(ask(own, web), closed).verdict == "allowed"
    assert judge(ask(web, own), closed).egress.cause == engine.OWN_NODE
    assert judge(ask(web, own)).verdict == "allowed"
    assert judge(ask(web, other), closed).verdict == "denied"
    assert judge(ask(other, web), closed).verdict == "denied"


def test_the_admin_tiers_see_a_pods_own_node() -> None:
    rule = Rule(0, DENY, (NodePeer(EVERYTHING),))
    web = WEB._replace(node="n1")
    agent = pod("kube/agent", "198.18.0.1", host_network=True, node="n1")
    closed = policy("shop/closed", ingress=(), egress=())
    for own in (node("n1", "198.18.0.1"), agent, node("n2", "198.18.0.2")):
        for tier in (0, 2):
            to_node = judge(ask(web, own), admin("p", rule, tier=tier)).egress
            assert (to_node.verdict, to_node.cause) == ("denied", engine.RULE)
    for own in (node("n1", "198.18.0.1"), agent):
        # "v1.NetworkPolicy always makes a final decision for selected pods": no baseline then.
        for policies in ((), (closed,), (closed, admin("p", rule, tier=2))):
            out, back = (judge(ask(*ends), *policies) for ends in ((web, own), (own, web)))
            assert (out.egress.verdict, out.egress.cause) == ("allowed", engine.OWN_NODE)
            assert back.ingress.cause == engine.OWN_NODE


def test_the_admin_tiers_see_a_pod_reach_itself_through_a_service_only() -> None:
    rule = Rule(0, DENY, (PodPeer(EVERYTHING),))
    closed = policy("shop/closed", ingress=(), egress=())
    own, through = ask(WEB, WEB), ask(WEB, WEB)._replace(by_service=True)
    for tier in (0, 2):
        apart = admin("p", rule, ingress=(rule,), tier=tier)
        assert judge(own, apart).verdict == "allowed"
        assert judge(through, apart).verdict == "denied"
    for policies in ((), (closed,), (closed, admin("p", rule, tier=2))):
        assert judge(through, *policies).ingress.cause == engine.LOOPBACK


def test_families_are_apart_and_exceptions_are_only_of_their_block() -> None:
    everything_v6 = policy("shop/p", egress=rules(Rule(0, ALLOW, (block("::/0"),))))
    assert judge(ask(WEB, outside("203.0.113.9")), everything_v6).verdict == "denied"
    web6 = WEB._replace(ips=(ip("2001:db8::1"),))
    assert judge(ask(web6, outside("2001:db8::9")), everything_v6).verdict == "allowed"
    everything_v4 = policy("shop/p", egress=rules(Rule(0, ALLOW, (block("0.0.0.0/0"),))))
    assert judge(ask(WEB, outside()), everything_v4).verdict == "allowed"
    assert judge(ask(web6, outside("2001:db8::9")), everything_v4).verdict == "denied"
    peers = (block("203.0.113.0/24", "203.0.113.8/29"), block("203.0.113.10/32"))
    some = policy("shop/p", egress=rules(Rule(0, ALLOW, peers)))
    assert judge(ask(WEB, outside("203.0.113.9")), some).verdict == "denied"
    assert judge(ask(WEB, outside("203.0.113.10")), some).verdict == "allowed"


def test_ports() -> None:
    named = DB._replace(ports=(NamedPort("sql", TCP, 3306), NamedPort("sql", UDP, 3307)))
    written = {
        "number": PolicyPort(TCP, 80, 80),
        "range": PolicyPort(TCP, 80, 90),
        "name": PolicyPort(TCP, name="sql"),
        "any protocol": PolicyPort(ANY_PROTOCOL, name="sql"),
        "protocol": PolicyPort(SCTP),
    }
    allows = {
        title: {
            (protocol, number)
            for protocol in (TCP, UDP, SCTP)
            for number in (80, 90, 91, 3306, 3307)
            if judge(
                ask(WEB, named, number, protocol),
                policy("shop/p", ingress=rules(Rule(0, ALLOW, None, (port,)))),
            ).verdict
            == "allowed"
        }
        for title, port in written.items()
    }
    assert allows == {
        "number": {(TCP, 80)},
        "range": {(TCP, 80), (TCP, 90)},
        "name": {(TCP, 3306)},
        "any protocol": {(TCP, 3306), (UDP, 3307)},
        "protocol": {(SCTP, n) for n in (80, 90, 91, 3306, 3307)},
    }


def test_admin_rules_go_by_priority_then_by_place_and_pass_leaves_the_tier() -> None:
    closed = policy("shop/closed", egress=())
    allow, deny, passes = (Rule(0, action) for action in (ALLOW, DENY, PASS))
    assert judge(ask(WEB, DB), closed, admin("p", allow)).verdict == "allowed"
    assert judge(ask(WEB, DB), admin("p", deny, allow)).verdict == "denied"
    first, second = admin("z", allow, priority=1), admin("a", deny, priority=2)
    assert judge(ask(WEB, DB), second, first).verdict == "allowed"
    skipped = admin("p", passes, priority=0)
    assert judge(ask(WEB, DB), skipped, first, closed).verdict == "denied"
    assert judge(ask(WEB, DB), skipped, first).verdict == "undeclared"


def test_the_baseline_is_for_what_no_network_policy_selects_in_that_direction() -> None:
    baseline = admin("base", Rule(0, DENY), tier=2)
    assert judge(ask(WEB, DB), baseline).verdict == "denied"
    assert judge(ask(WEB, DB), baseline, policy("shop/p", egress=ALL)).verdict == "allowed"
    assert judge(ask(WEB, DB), baseline, policy("shop/p", ingress=ALL)).verdict == "denied"


def test_equal_priorities_that_do_not_agree_leave_it_open() -> None:
    one, other = admin("a", Rule(0, ALLOW)), admin("b", Rule(0, DENY))
    verdict = judge(ask(WEB, DB), one, other)
    assert (verdict.verdict, verdict.egress.cause) == ("unknown", engine.SAME_PRIORITY)
    assert judge(ask(WEB, DB), one, one._replace(name="b")).verdict == "allowed"


def test_a_domain_name_is_unknown_where_it_could_decide_and_only_there() -> None:
    named = admin(
        "p", Rule(0, ALLOW, (DomainPeer(("example.com",)),), (PolicyPort(TCP, 443, 443),))
    )
    closed = policy("shop/closed", egress=())
    assert judge(ask(WEB, outside(), 443), named, closed).verdict == "unknown"
    assert judge(ask(WEB, outside(), 80), named, closed).verdict == "denied"
    sooner = admin("q", Rule(0, DENY), priority=-1)
    assert judge(ask(WEB, outside(), 443), named, sooner).verdict == "denied"


def test_an_end_that_is_not_known() -> None:
    closed = policy("shop/p", ingress=FROM_WEB)
    question = Question(UNIDENTIFIED_PEER, DB, TCP, 80, 0, DB.ips[0])
    assert judge(question, closed).ingress.verdict == "unknown"
    assert judge(question, policy("shop/p", ingress=())).ingress.verdict == "unknown"
    open_to_all = judge(question, policy("shop/p", ingress=ALL))
    assert (open_to_all.ingress.verdict, open_to_all.verdict) == ("allowed", "unknown")


def test_labels_that_are_not_known() -> None:
    web, db = WEB._replace(labels=None), DB._replace(labels=None)
    closed = policy("shop/p", ingress=FROM_WEB)
    assert judge(ask(web, DB), closed).ingress.cause == engine.DOUBT
    some = policy("shop/p", subject=PodSubject(None, labelled(app="db")), ingress=())
    assert judge(ask(WEB, db), some).ingress.cause == engine.SELECTION
    assert judge(ask(WEB, db), some, policy("shop/q", ingress=())).verdict == "denied"
    assert judge(ask(WEB, db), some, policy("shop/q", ingress=ALL)).verdict == "allowed"


def test_an_unreadable_policy_leaves_open_what_it_might_decide() -> None:
    broken = policy("shop/p", unreadable="line 3: not a selector")
    assert judge(ask(WEB, DB), broken).verdict == "unknown"
    # Others may still allow: what policies say is united.
    both_open = policy("shop/q", ingress=ALL, egress=ALL)
    assert judge(ask(WEB, DB), broken, both_open).verdict == "allowed"
    assert judge(ask(WEB, DB), broken, policy("shop/q", ingress=())).ingress.verdict == "unknown"
    elsewhere = broken._replace(namespace="bank")
    assert judge(ask(WEB, DB), elsewhere).verdict == "undeclared"
    first = admin("p", unreadable="no rules", tier=0)
    assert judge(ask(WEB, DB), first, both_open).verdict == "unknown"


def test_isolation_of_other_protocols_is_left_to_plugins() -> None:
    closed = policy("shop/p", egress=())
    verdict = judge(ask(WEB, DB, 0, 1), closed)
    assert (verdict.verdict, verdict.egress.cause) == ("unknown", engine.PROTOCOL)
    assert judge(ask(WEB, DB, 0, 1), closed, admin("q", Rule(0, ALLOW))).verdict == "allowed"


def test_a_host_policy_selects_units_containers_and_the_hosts_network() -> None:
    sshd = PolicyEndpoint(HOST, unit="ssh.service", host_network=True, ips=(ip("198.18.0.1"),))
    box = PolicyEndpoint(
        HOST, container="cache-1", labels=(("app", "cache"),), ips=(ip("198.18.0.2"),)
    )

    def host_policy(**subject: Any) -> Policy:
        return policy("p", kind="HostPolicy", subject=HostSubject(**subject), ingress=())

    def denied(**subject: Any) -> list[str]:
        ends = {"sshd": sshd, "box": box, "pod": WEB}
        chosen = host_policy(**subject)
        return [k for k, v in ends.items() if judge(ask(outside(), v), chosen).verdict == "denied"]

    assert denied(host=True) == ["sshd"]
    assert denied(units=("ssh*",)) == ["sshd"]
    assert denied(containers=("cache-?",)) == ["box"]
    assert denied(endpoints=labelled(app="cache")) == ["box"]
    assert denied(endpoints=EVERYTHING) == ["sshd", "box"]
    assert denied() == []


def test_explain_shows_what_isolates_each_rule_and_what_decides() -> None:
    question = ask(WEB, DB, 5432)
    steps = explain(
        question,
        [
            policy("shop/db", ingress=rules(Rule(0, ALLOW, None, (PolicyPort(TCP, 3306, 3306),)))),
            admin("p", Rule(0, ALLOW, (PodPeer(EVERYTHING),))),
        ],
    )
    assert [step[::2] if not step.item else (step.item, step.result) for step in steps] == [
        ("ClusterNetworkPolicy/p", "selects the source"),
        ("ClusterNetworkPolicy/p egress[0]", "matches: allow"),
        ("egress", ""),
        ("shop/db", "selects the destination and isolates it"),
        ("shop/db ingress[0]", "does not match: port 5432 is not 3306"),
        ("ingress", ""),
    ]
    assert steps[2].result == "allowed: ClusterNetworkPolicy/p egress[0]"
    assert steps[5].result.startswith("denied: denied by default: shop/db selects it")


def test_the_order_of_policies_does_not_matter() -> None:
    some = [policy(f"shop/{name}", ingress=FROM_WEB) for name in "abc"]
    question = ask(WEB, DB)
    assert judge(question, *some) == judge(question, *reversed(some))

# SPDX-License-Identifier: Apache-2.0
"""What lint finds in policies, by themselves and against a cluster; and that shadows are true."""

import json
from pathlib import Path
from typing import Any

import pytest

from podtally.policy.cases.case_files import read_cases
from podtally.policy.cluster import manifests
from podtally.policy.lint.checks import lint, unsupported_kinds
from podtally.policy.lint.findings import (
    DUPLICATE,
    IGNORED_RULES,
    PROTOCOL_WITHOUT_PORTS,
    SELECTS_NOTHING,
    SHADOWED,
    UNISOLATED,
    UNSUPPORTED_KIND,
    DeclaredDocuments,
    LintFinding,
)
from podtally.policy.lint.shadowed_rules import ShadowedRule, shadowed_rules
from podtally.policy.lint.subsumption import covers_rule, covers_selector, is_contradictory
from podtally.policy.load.documents import read_text
from podtally.policy.load.parser import read_documents
from podtally.policy.model import INGRESS, Policy, PolicyPort, Requirement, Rule, Selector
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_support import block, labelled, network, policy

SHARED = Path(__file__).parents[4] / "shared" / "netpol"
CASE = {
    "namespaces": [{"name": "shop"}, {"name": "other"}, {"name": "empty"}],
    "nodes": [{"name": "n1", "ips": ["10.99.9.1"], "labels": {"pool": "a"}}],
    "pods": [
        {
            "namespace": "shop",
            "name": "web",
            "labels": {"app": "web"},
            "ips": ["10.99.0.1"],
            "ports": [{"port": 80, "name": "http"}],
        },
        {"namespace": "shop", "name": "db", "labels": {"app": "db"}, "ips": ["10.99.0.2"]},
        {"namespace": "other", "name": "h", "ips": ["10.99.9.1"], "host_network": True},
        {"namespace": "other", "name": "old", "ips": [], "phase": "Failed"},
    ],
}


def declared(text: str) -> list[DeclaredDocuments]:
    return [
        DeclaredDocuments(found, document)
        for document in read_text(text, "p.yaml").documents
        for found in read_documents([document]).policies
    ]


def found(text: str, check: str, with_cluster: bool = False) -> list[tuple[int, str, str]]:
    """Line, field and message of a check's finding."""
    world = manifests.from_case(CASE, "", "").model if with_cluster else None
    result = [each for each in lint(declared(text), world) if each.check == check]
    return [(each.problem.line, each.problem.field, each.problem.message) for each in result]


def net(spec: str, name: str = "p", namespace: str = "shop") -> str:
    meta = f"metadata: {{name: {name}, namespace: {namespace}}}"
    head = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{meta}\nspec:\n"
    return head + "".join(f"  {line}\n" for line in spec.splitlines())


def admin(spec: str, name: str = "a", priority: int = 1) -> str:
    head = (
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec:\n  priority: {priority}\n"
        "  subject: {namespaces: {}}\n"
    )
    return head + "".join(f"  {line}\n" for line in spec.splitlines())


def test_a_good_policy_has_no_findings() -> None:
    text = net("podSelector: {matchLabels: {app: web}}\ningress:\n- ports: [{port: http}]")
    assert lint(declared(text), None) == []


def test_a_selector_that_selects_nothing_in_the_cluster() -> None:
    text = net(
        "podSelector: {matchLabels: {app: wep}}\n"
        "ingress:\n"
        "- from:\n"
        "  - podSelector: {matchLabels: {app: db}}\n"
        "  - podSelector: {matchLabels: {app: old}}\n"
    )
    assert found(text, SELECTS_NOTHING, with_cluster=True) == [
        (5, "spec.podSelector", "selects no pod of the cluster"),
        (9, "spec.ingress[0].from[1]", "selects no pod of the cluster"),
    ]
    assert found(text, SELECTS_NOTHING) == []


def test_a_namespace_that_is_not_there_and_one_that_is_empty() -> None:
    gone, empty = (net("podSelector: {}", namespace=name) for name in ("gone", "empty"))
    why = "selects no pod: the cluster has no namespace gone"
    assert found(gone, SELECTS_NOTHING, with_cluster=True) == [(5, "spec.podSelector", why)]
    assert found(empty, SELECTS_NOTHING, with_cluster=True) == []


def test_a_selector_that_contradicts_itself_needs_no_cluster() -> None:
    both = "{matchLabels: {app: web}, matchExpressions: [{key: app, operator: DoesNotExist}]}"
    text = net(f"podSelector: {both}")
    why = "selects nothing: its requirements contradict each other"
    assert found(text, SELECTS_NOTHING) == [(5, "spec.podSelector", why)]


def test_nodes_and_networks_of_an_admin_policy_have_their_places() -> None:
    text = admin(
        "egress:\n"
        "- action: Deny\n"
        "  to:\n"
        "  - networks: [10.0.0.0/8, 192.0.2.0/24]\n"
        "  - nodes: {matchLabels: {pool: a}}\n"
        "  - nodes: {matchLabels: {pool: b}}\n"
        "  - namespaces: {matchLabels: {kubernetes.io/metadata.name: gone}}\n"
    )
    assert found(text, SELECTS_NOTHING, with_cluster=True) == [
        (12, "spec.egress[0].to[2]", "selects no node of the cluster"),
        (13, "spec.egress[0].to[3]", "selects no pod of the cluster"),
    ]


def test_a_port_without_that_name() -> None:
    text = net("podSelector: {}\ningress:\n- ports: [{port: http}]\n- ports: [{port: htpp}]")
    assert found(text, SELECTS_NOTHING, with_cluster=True) == [
        (8, "spec.ingress[1]", "no pod that the policy selects has a port named htpp")
    ]


def test_in_egress_the_name_of_a_port_is_anybodys() -> None:
    subject = "podSelector: {matchLabels: {app: db}}\n"
    text = net(subject + "egress:\n- ports: [{port: http}]\n- ports: [{port: htpp}]")
    why = "no pod of the cluster has a port named htpp"
    assert found(text, SELECTS_NOTHING, with_cluster=True) == [(8, "spec.egress[1]", why)]
    text = net(subject + "ingress:\n- ports: [{port: http}]")
    assert len(found(text, SELECTS_NOTHING, with_cluster=True)) == 1


def test_a_port_of_a_protocol_that_has_none() -> None:
    text = net("podSelector: {}\ningress:\n- ports:\n  - protocol: ICMP\n    port: 8")
    assert found(text, PROTOCOL_WITHOUT_PORTS) == [
        (
            8,
            "spec.ingress[0].ports[0].protocol",
            "unsupported protocol 'ICMP': use TCP, UDP or SCTP",
        )
    ]


def test_rules_that_policy_types_leave_out() -> None:
    text = net("podSelector: {}\npolicyTypes: [Egress]\ningress: [{}]\negress: [{}]")
    assert found(text, IGNORED_RULES) == [
        (7, "spec.ingress", "ignored: policyTypes does not include Ingress")
    ]


def test_an_object_that_is_declared_twice() -> None:
    text = net("podSelector: {}") + "---\n" + net("podSelector: {}")
    assert found(text, DUPLICATE) == [
        (7, "", "is also declared in p.yaml:1; the later one is used")
    ]


def test_a_policy_of_another_kind_is_reported() -> None:
    text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c}\n---\n" + (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n"
    )
    result = list(unsupported_kinds(read_text(text, "p.yaml").documents))
    assert [(each.check, each.problem.line) for each in result] == [(UNSUPPORTED_KIND, 2)]


def test_unisolated_namespaces_by_direction() -> None:
    text = net("podSelector: {matchLabels: {app: web}}\negress: []\npolicyTypes: [Egress, Ingress]")
    assert found(text, UNISOLATED, with_cluster=True) == [
        (0, "", "1 of 2 pods not isolated in ingress: db"),
        (0, "", "1 of 2 pods not isolated in egress: db"),
    ]
    assert found(net("podSelector: {}"), UNISOLATED, with_cluster=True) == [
        (0, "", "2 of 2 pods not isolated in egress: db and web")
    ]
    deny = admin("ingress:\n- action: Deny\n  from: [{namespaces: {}}]")
    assert found(deny + "---\n" + net("podSelector: {}"), UNISOLATED, with_cluster=True) == [
        (0, "", "2 of 2 pods not isolated in egress: db and web")
    ]
    assert len(found(deny, UNISOLATED, with_cluster=True)) == 1


def test_a_rule_in_the_shadow_of_another_of_its_policy_and_of_a_wider_policy() -> None:
    text = net(
        "podSelector: {matchLabels: {app: web}}\n"
        "ingress:\n"
        "- from: [{podSelector: {matchLabels: {app: db, tier: x}}}]\n"
        "  ports: [{port: 80}]\n"
        "- from: [{podSelector: {matchLabels: {app: db}}}]\n"
        "  ports: [{port: 79, endPort: 90}]\n"
        "- from: [{ipBlock: {cidr: 10.99.1.0/24}}]\n"
    )
    wider = net("podSelector: {}\ningress:\n- from: [{ipBlock: {cidr: 10.99.0.0/16}}]", "wide")
    assert found(text + "---\n" + wider, SHADOWED) == [
        (
            7,
            "spec.ingress[0]",
            "makes no difference: shop/p ingress[1] allows everything it allows",
        ),
        (
            11,
            "spec.ingress[2]",
            "makes no difference: shop/wide ingress[0] allows everything it allows",
        ),
    ]
    elsewhere = net("podSelector: {}\ningress:\n- {}", "wide", "other")
    assert len(found(text + "---\n" + elsewhere, SHADOWED)) == 1


def test_of_two_rules_that_mean_the_same_the_later_is_reported() -> None:
    text = net("podSelector: {}\ningress:\n- ports: [{port: 80}]\n- ports: [{port: 80}]")
    assert [field for _, field, _ in found(text, SHADOWED)] == ["spec.ingress[1]"]


def test_in_the_admin_tier_only_what_is_asked_before_shadows() -> None:
    narrow = "ingress:\n- action: Allow\n  from: [{namespaces: {matchLabels: {a: b}}}]"
    wide = "ingress:\n- action: Deny\n  from: [{namespaces: {}}]"
    first, last = admin(narrow, "n", 1), admin(wide, "w", 2)
    assert found(first + "---\n" + last, SHADOWED) == []
    assert [m for _, _, m in found(admin(narrow, "n", 3) + "---\n" + last, SHADOWED)] == [
        "is never reached: AdminNetworkPolicy/w ingress[0] (deny) matches everything it matches"
    ]
    assert found(admin(narrow, "n", 2) + "---\n" + last, SHADOWED) == []  # which is unknown
    below = net("podSelector: {}\ningress:\n- from: [{namespaceSelector: {}}]")
    assert len(found(below + "---\n" + last, SHADOWED)) == 1
    passing = admin("ingress:\n- {action: Pass, from: [{namespaces: {matchLabels: {a: b}}}]}", "q")
    assert found(below + "---\n" + last + "---\n" + passing, SHADOWED) == []


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (Requirement("a", "In", frozenset("xy")), Requirement("a", "In", frozenset("x")), True),
        (Requirement("a", "In", frozenset("x")), Requirement("a", "In", frozenset("xy")), False),
        (Requirement("a", "Exists"), Requirement("a", "In", frozenset("x")), True),
        (Requirement("a", "In", frozenset("x")), Requirement("a", "Exists"), False),
        (Requirement("a", "NotIn", frozenset("x")), Requirement("a", "DoesNotExist"), True),
        (Requirement("a", "NotIn", frozenset("x")), Requirement("a", "In", frozenset("y")), True),
        (Requirement("a", "NotIn", frozenset("x")), Requirement("a", "In", frozenset("xy")), False),
        (Requirement("a", "NotIn", frozenset("x")), Requirement("a", "NotIn", frozenset("xy")), True),
        (Requirement("a", "NotIn", frozenset("xy")), Requirement("a", "NotIn", frozenset("x")), False),
        (Requirement("a", "DoesNotExist"), Requirement("a", "NotIn", frozenset("x")), False),
        (Requirement("a", "Exists"), Requirement("b", "Exists"), False),
    ],
)  # fmt: skip
def test_covering_of_requirements(outer: Requirement, inner: Requirement, covered: bool) -> None:
    assert covers_selector(Selector((outer,)), Selector((inner,))) is covered


def test_contradictions() -> None:
    apart = Selector(tuple(Requirement("a", "In", frozenset(value)) for value in "xy"))
    without = (Requirement("a", "In", frozenset("x")), Requirement("a", "NotIn", frozenset("xz")))
    assert is_contradictory(apart)
    assert is_contradictory(Selector(without))
    assert not is_contradictory(labelled(a="x", b="y"))
    absent = (Requirement("a", "DoesNotExist"), Requirement("a", "NotIn", frozenset("x")))
    assert not is_contradictory(Selector(absent))


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (block("10.99.0.0/16"), block("10.99.1.0/24"), True),
        (block("10.99.1.0/24"), block("10.99.0.0/16"), False),
        (block("10.99.0.0/24"), block("10.99.0.0/16"), False),
        (block("10.99.0.0/16", "10.99.1.0/28"), block("10.99.1.0/24"), False),
        (block("10.99.0.0/16", "10.99.1.0/28"), block("10.99.1.0/24", "10.99.1.0/27"), True),
        (block("10.99.0.0/16", "10.99.2.0/24"), block("10.99.1.0/24"), True),
        (block("::/0"), block("10.99.0.0/16"), False),
        (block("::/0"), block("2001:db8::/32"), True),
    ],
)
def test_covering_of_blocks(outer: Any, inner: Any, covered: bool) -> None:
    own = policy("x/p")
    assert covers_rule(Rule(0, "allow", (outer,)), own, Rule(1, "allow", (inner,)), own) is covered
    assert network("10.99.0.0/16").bits == 112


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (None, (PolicyPort(6, 80, 80),), True),
        ((PolicyPort(6, 80, 80),), None, False),
        ((PolicyPort(6, 80, 90),), (PolicyPort(6, 80, 80), PolicyPort(6, 85, 90)), True),
        ((PolicyPort(6, 80, 90),), (PolicyPort(6, 85, 91),), False),
        ((PolicyPort(17, 80, 90),), (PolicyPort(6, 85, 85),), False),
        ((PolicyPort(6),), (PolicyPort(6, name="http"),), True),
        ((PolicyPort(6, 1, 65535),), (PolicyPort(6, name="http"),), False),
        ((PolicyPort(0, name="http"),), (PolicyPort(6, name="http"),), True),
    ],
)
def test_covering_of_ports(outer: Any, inner: Any, covered: bool) -> None:
    own = policy("x/p")
    rules = (Rule(0, "allow", None, outer), Rule(1, "allow", None, inner))
    assert covers_rule(rules[0], own, rules[1], own) is covered


@pytest.mark.slow
def test_a_shadow_makes_no_difference_to_any_verdict_of_the_corpora() -> None:
    """Without the shadowed rule all probes of the case are judged as with it."""
    asked = 0
    for name in ("shared.json", "admin_shared.json"):
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs ../shared/netpol/{name}")
        for case in read_cases(path.read_bytes(), name).cases:
            result = list(shadowed_rules(case.policies))
            questions = [probe.question for probe in case.probes if probe.question][:600]
            whole = [Engine(case.policies).judge(question)[0] for question in questions]
            for shadow in result:
                engine = Engine(_without(case.policies, shadow))
                assert [engine.judge(question)[0] for question in questions] == whole, shadow
                asked += len(questions)
    assert asked > 1_000


def _without(policies: tuple[Policy, ...], shadow: ShadowedRule) -> list[Policy]:
    def rest(rules: tuple[Rule, ...] | None) -> tuple[Rule, ...]:
        return tuple(rule for rule in rules or () if rule is not shadow.rule)

    policy = shadow.policy
    if shadow.direction == INGRESS:
        less = policy._replace(ingress=rest(policy.ingress))
    else:
        less = policy._replace(egress=rest(policy.egress))
    return [less if each is policy else each for each in policies]


def test_findings_of_the_corpora_can_be_written() -> None:
    path = SHARED / "admin_shared.json"
    if not path.exists():
        pytest.skip("needs ../shared/netpol/admin_shared.json")
    result: list[LintFinding] = []
    for case in json.loads(path.read_text())["cases"]:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": case["policies"]})
        result += lint(declared(text), manifests.from_case(case, "", "").model)
    assert {each.check for each in result} >= {SELECTS_NOTHING, SHADOWED, UNISOLATED}
    assert all(str(each.problem) for each in result)

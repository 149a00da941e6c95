# SPDX-License-Identifier: Apache-2.0
"""Cases of tests: malformed ones, owners of addresses, and expected verdicts."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.policy.cases.case_files import read_cases
from podtally.policy.cases.runner import ProbeResult, run_case
from podtally.policy.model import ADDRESS, UNIDENTIFIED

DENY_ALL: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "none", "namespace": "x"},
    "spec": {"podSelector": {}},
}
PODS: list[dict[str, Any]] = [
    {"namespace": "x", "name": "a", "labels": {"app": "a"}, "ips": ["10.99.0.1", "2001:db8::1"]},
    {"namespace": "x", "name": "b", "labels": None, "ips": ["10.99.0.2"], "node": "n1"},
    {"namespace": "y", "name": "c", "ips": []},
    {"namespace": "y", "name": "h", "ips": ["10.99.9.1"], "node": "n1", "host_network": True},
]


def probe(source: str, destination: str, expect: str | None = "allow", **more: Any) -> Any:
    """Ends: ``ns/pod`` or an address."""
    ends = [{"pod": end} if "/" in end else {"ip": end} for end in (source, destination)]
    asked = {"from": ends[0], "to": ends[1], "protocol": "TCP", "port": 80, "expect": expect}
    return {**asked, **more}


def case(*probes: Any, policies: Sequence[Any] = (DENY_ALL,), **more: Any) -> dict[str, Any]:
    namespaces = [{"name": "x", "labels": {}}, {"name": "y", "labels": {"team": "y"}}]
    whole = {"id": "one", "namespaces": namespaces, "pods": PODS, "policies": policies}
    return {**whole, "probes": list(probes), **more}


def outcomes(written: Any) -> list[ProbeResult]:
    found = read_cases(json.dumps(written).encode(), "tests.json")
    return [outcome for each in found.cases for outcome in run_case(each)]


def verdicts(*probes: Any, **more: Any) -> list[str]:
    return [outcome.verdict for outcome in outcomes(case(*probes, **more))]


def problems(written: Any) -> list[str]:
    found = read_cases(json.dumps(written).encode(), "tests.json")
    return [str(problem) for problem in (*found.problems, *found.policy_problems)]


def test_a_denied_probe_has_its_sides_and_its_reason() -> None:
    (outcome,) = outcomes(case(probe("x/a", "x/b", "deny")))
    assert (outcome.verdict, outcome.ingress, outcome.egress) == ("denied", "denied", "undeclared")
    assert outcome.reason == "denied by default: x/none selects it and no ingress rule allows this"
    assert outcome.ok


@pytest.mark.parametrize(
    ("expect", "ok"),
    [
        ("deny", True),
        ("allow", False),
        ("denied", True),
        ("undeclared", False),
        (None, True),
        ("perhaps", False),
    ],
)
def test_what_is_expected(expect: str | None, ok: bool) -> None:
    assert outcomes(case(probe("x/a", "x/b", expect)))[0].ok is ok


def test_a_direction_that_differs_is_not_ok_though_the_whole_is() -> None:
    right = probe("x/a", "x/b", "deny", expect_ingress="deny", expect_egress="allow")
    wrong = probe("x/a", "x/b", "deny", expect_ingress="deny", expect_egress="deny")
    assert [outcome.ok for outcome in outcomes(case(right, wrong))] == [True, False]


def test_undeclared_is_what_allow_means_too() -> None:
    (outcome,) = outcomes(case(probe("x/a", "y/c", "allow")))
    assert (outcome.verdict, outcome.ok) == ("undeclared", True)


def test_a_matrix_comes_after_the_probes_and_in_rows() -> None:
    matrix = {"protocol": "TCP", "port": 80, "endpoints": ["x/a", "y/c", "ip:203.0.113.9"]}
    rows = ["o.-", "i-.", "i--"]
    written = case(probe("x/a", "x/b", "deny"), matrices=[{**matrix, "rows": rows}])
    found = outcomes(written)
    assert [(o.number, o.verdict, o.ok) for o in found] == [
        (0, "denied", True),
        (1, "allowed", True),
        (2, "undeclared", True),
        (3, "denied", True),
        (4, "undeclared", True),
        (5, "denied", True),
    ]


@pytest.mark.parametrize(
    ("rows", "why"),
    [(["o.", "i"], "must have 2 rows"), (["o?", "io"], "unknown matrix cell")],
)
def test_a_matrix_that_is_no_table_is_never_ok(rows: list[str], why: str) -> None:
    matrix = {"protocol": "TCP", "port": 80, "endpoints": ["x/a", "y/c"], "rows": rows}
    written = case(matrices=[matrix])
    assert any(not outcome.ok and why in outcome.reason for outcome in outcomes(written))
    assert any(why in problem for problem in problems(written))


def test_family_picks_the_address() -> None:
    block = {"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}
    policy = {**DENY_ALL, "spec": {"podSelector": {}, "ingress": [block]}}
    pods = [*PODS, {"namespace": "y", "name": "two", "ips": ["10.99.0.8", "2001:db8::8"]}]
    asked = (probe("y/two", "x/a"), probe("y/two", "x/a", family="IPv6"))
    assert verdicts(*asked, policies=[policy], pods=pods) == ["denied", "allowed"]


def test_without_a_family_the_first_that_both_have_is_used() -> None:
    block = {"from": [{"ipBlock": {"cidr": "10.99.0.0/16"}}]}
    policy = {**DENY_ALL, "spec": {"podSelector": {}, "ingress": [block]}}
    pods = [*PODS, {"namespace": "y", "name": "two", "ips": ["2001:db8::8", "10.99.0.8"]}]
    asked = (probe("y/two", "x/b"), probe("2001:db8::9", "x/b"), probe("y/two", "y/c"))
    assert verdicts(*asked, policies=[policy], pods=pods) == ["allowed", "denied", "undeclared"]


def test_an_address_is_the_nodes_or_the_pods_that_lives() -> None:
    nodes = [{"name": "n1", "ips": ["10.99.9.1"], "labels": {"role": "a"}}]
    gone = {"namespace": "x", "name": "old", "ips": ["10.99.0.1"], "phase": "Failed"}
    twins = [{"namespace": "x", "name": name, "ips": ["10.99.0.77"]} for name in ("t1", "t2")]
    pods = [gone, *PODS, *twins]
    asked = [probe(ip, "x/a") for ip in ("10.99.9.1", "10.99.0.1", "10.99.0.77", "203.0.113.9")]
    found = outcomes(case(*asked, nodes=nodes, pods=pods))
    sources = [o.probe.question.source for o in found if o.probe.question]
    names = [source.name or source.kind for source in sources]
    assert names == ["n1", "a", UNIDENTIFIED, ADDRESS]
    assert [o.verdict for o in found] == ["denied", "allowed", "unknown", "denied"]


def test_a_host_network_pods_address_is_its_nodes_even_if_the_node_is_not_listed() -> None:
    asked = (probe("10.99.9.1", "x/b"), probe("y/h", "x/b"), probe("10.99.9.1", "x/a"))
    pods = [*PODS, {**PODS[3], "name": "h2"}]
    assert verdicts(*asked, pods=pods) == ["allowed", "allowed", "denied"]


def test_a_pod_over_keeps_its_name_and_one_that_ends_its_policies() -> None:
    pods = [{**PODS[0], "terminating": True}, {**PODS[1], "phase": "Succeeded"}]
    assert verdicts(probe("x/b", "x/a"), pods=pods) == ["denied"]


def test_labels_of_a_namespace_that_is_not_listed_are_not_known() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "z"}}}]
    policy = {**DENY_ALL, "spec": {"podSelector": {}, "ingress": [{"from": peers}]}}
    pods = [*PODS, {"namespace": "z", "name": "z", "ips": ["10.99.0.9"]}]
    asked = (probe("z/z", "x/a"), probe("y/c", "x/a"))
    assert verdicts(*asked, policies=[policy], pods=pods) == ["unknown", "denied"]


def test_a_pod_without_an_address_is_known_by_labels_but_in_no_block() -> None:
    peers = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    policy = {**DENY_ALL, "spec": {"podSelector": {}, "ingress": [{"from": peers}]}}
    assert verdicts(probe("y/c", "x/a"), policies=[policy]) == ["unknown"]
    assert verdicts(probe("y/c", "x/a")) == ["denied"]


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (probe("x/nobody", "x/a"), "no pod 'x/nobody'"),
        (probe("10.99.0.300", "x/a"), "invalid address"),
        (probe("x/a", "x/b", protocol="ICMP"), "use one of TCP, UDP, SCTP"),
        (probe("x/a", "x/b", port=70000), "between 0 and 65535"),
        (probe("x/a", "x/b", port="http"), "whole number"),
        (probe("x/a", "x/b", family="IPX"), "use one of IPv4, IPv6"),
        (
            {**probe("x/a", "x/b"), "to": {"pod": "x/a", "ip": "10.99.0.1"}},
            "one of pod, ip and name",
        ),
        (None, "must be an object"),
    ],
)
def test_a_probe_that_cannot_be_evaluated_is_unknown_and_reported(odd: Any, why: str) -> None:
    written = case(odd, probe("x/a", "x/b", "deny"))
    first, second = outcomes(written)
    assert (first.verdict, first.ok) == ("unknown", False)
    assert why in first.reason
    assert (second.number, second.ok) == (1, True)
    assert any("tests.json: one: probes[0]" in text and why in text for text in problems(written))


@pytest.mark.parametrize(
    ("broken", "unknown"),
    [
        ({**DENY_ALL, "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "x": 1}}, ["x/a"]),
        ({**DENY_ALL, "metadata": None}, ["x/a", "x/b"]),
        ({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}, ["x/a", "x/b"]),
        ("policy", ["x/a", "x/b"]),
    ],
)
def test_an_unreadable_policy_leaves_open_what_it_may_select(
    broken: Any, unknown: list[str]
) -> None:
    pods = ["x/a", "x/b"]
    written = case(*(probe("203.0.113.9", pod) for pod in pods), policies=[broken])
    found = dict(zip(pods, outcomes(written), strict=True))
    assert [pod for pod in pods if found[pod].verdict == "unknown"] == unknown
    assert any("policies[0]" in problem for problem in problems(written))


def test_what_is_odd_in_a_cluster_costs_its_own_part() -> None:
    pods = [PODS[0], {"name": "no-namespace"}, 7, {**PODS[1], "ips": ["here"]}]
    written = case(probe("x/a", "x/a"), probe("x/a", "x/b"), pods=pods, nodes="n1")
    assert [outcome.verdict for outcome in outcomes(written)] == ["allowed", "unknown"]
    result = "\n".join(problems(written))
    assert all(f"tests.json: one: {field}" in result for field in ("pods[1]", "pods[2]", "nodes"))
    assert "pods[3].ips: invalid address 'here'" in result


@pytest.mark.parametrize(
    "text",
    [b"", b"7", b"{", b"[1, 2", b"\xff", b'{"format": 2, "cases": []}', b'{"cases": 7}',
     b'{"kind": "validation", "cases": []}', b'{"probes": ["\\ud800"]}', b"a: *b", b"a: &a [*a]"],
)  # fmt: skip
def test_an_invalid_file_of_cases_is_refused(text: bytes) -> None:
    with pytest.raises(PodtallyError, match=r"^tests\.json"):
        read_cases(text, "tests.json")


def test_yaml_and_a_case_alone_are_read() -> None:
    text = b"""
id: by hand
namespaces: [{name: x}]
pods: [{namespace: x, name: a, ips: [10.99.0.1]}]
policies: []
probes: [{from: {ip: 203.0.113.9}, to: {pod: x/a}, protocol: TCP, port: 80, expect: allow}]
"""
    (found,) = read_cases(text, "tests.yaml").cases
    assert [(o.case, o.ok) for o in run_case(found)] == [("by hand", True)]


def test_policies_that_are_given_besides_go_before_namesakes() -> None:
    written = case(probe("y/c", "x/a", "deny"))
    (open_one,) = read_cases(
        json.dumps(
            case(policies=[{**DENY_ALL, "spec": {"podSelector": {}, "ingress": [{}]}}])
        ).encode(),
        "",
    ).cases
    (closed,) = read_cases(json.dumps(written).encode(), "").cases
    assert [o.verdict for o in run_case(closed)] == ["denied"]
    assert [o.verdict for o in run_case(closed, open_one.policies)] == ["allowed"]


ODD = [None, 0, -1, 10**30, "", "x", [], {}, [None], True, 1.5, "ip:", "a" * 70_000, {"pod": "x"}]


def test_nothing_odd_ends_it_and_what_cannot_be_evaluated_is_never_ok() -> None:
    """Parts are replaced by odd values; a readable whole has as many outcomes as probes."""
    rng = random.Random(23)

    def mutated(value: Any) -> Any:
        if rng.random() < 0.02:
            return rng.choice(ODD)
        if isinstance(value, dict):
            return {key if rng.random() > 0.01 else "odd": mutated(v) for key, v in value.items()}
        return [mutated(item) for item in value] if isinstance(value, list) else value

    whole = case(probe("x/a", "x/b"), probe("203.0.113.9", "x/a"), probe("y/h", "x/b"))
    denied = 0
    for _ in range(2_000):
        written = mutated(whole)
        try:
            found = read_cases(json.dumps(written).encode(), "tests.json")
        except PodtallyError:
            continue
        for each in found.cases:
            given = written["probes"] if isinstance(written.get("probes"), list) else []
            result = list(run_case(each))
            assert len(result) == len(given)
            assert not any(o.ok for o in result if o.probe.question is None)
            denied += sum(outcome.verdict == "denied" for outcome in result)
    assert denied > 1_000  # most are still judged

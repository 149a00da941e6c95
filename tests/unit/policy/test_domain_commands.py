# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name in the commands: checks, test cases with DNS answers, explanations."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from podtally import cli
from podtally.api.schema import CandidateRow, Candidates
from podtally.commands import candidates

POLICIES = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: payments}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - action: Accept
    to: [{domainNames: [API.stripe.com., "*.example.com"]}]
  - action: Deny
    to: [{networks: [0.0.0.0/0, "::/0"]}]
"""
CLUSTER = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
status: {podIP: 10.99.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.99.255.7}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None}
"""
NAMES = """\
- {pod: shop/web, name: api.Stripe.com, ips: [203.0.113.7, "2001:db8::7"], ago: 12}
- {pod: shop/web, name: old.example.com, ips: [203.0.113.8], ago: 70, ttl: 30}
- {pod: shop/web, name: api.stripe.com, ips: [203.0.113.66], ago: 20, trusted: false}
- {pod: shop/other, name: api.stripe.com, ips: [203.0.113.9]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies.yaml").write_text(POLICIES)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "names.yaml").write_text(NAMES)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def check(capsys: pytest.CaptureFixture[str], text: str, folder: Path, *more: object) -> list[str]:
    (folder / "policies.yaml").write_text(text)
    ignored = ("--ignore", "unisolated", "--ignore", "no-dns")
    _, out, _ = run(capsys, "check", folder / "policies.yaml", *ignored, *more)
    return out.splitlines()[:-1]


def explain(
    capsys: pytest.CaptureFixture[str], folder: Path, to: str, *more: str
) -> tuple[int, dict[str, Any]]:
    files = ("--policies", folder / "policies.yaml", "--cluster", folder / "cluster.yaml")
    names = more or ("--names", str(folder / "names.yaml"))
    status, out, err = run(capsys, "explain", "shop/web", to, "443", *files, *names, "-o", "json")
    assert not err
    return status, json.loads(out)


# -- check ---------------------------------------------------------------------------------------


def test_names_in_rules_that_accept_are_fine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(capsys, POLICIES, folder, "--cluster", folder / "cluster.yaml") == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("action: Accept", "action: Deny", "in deny they may match"),
        ("action: Accept", "action: Pass", "in pass they may match"),
        ("tier: Admin", "tier: Baseline", "in the Baseline tier they may match"),
    ],
)
def test_names_in_other_rules_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, where: str
) -> None:
    (line,) = (
        line
        for line in check(capsys, POLICIES.replace(old, new), folder)
        if line.endswith("[domain-names]")
    )
    assert (
        "policies.yaml:10: ClusterNetworkPolicy payments: spec.egress[0].to[0].domainNames" in line
    )
    assert where in line


def test_a_name_of_a_cluster_ip_service_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "db.shop.svc.cluster.local, headless.shop.svc.cluster.local, no.shop.svc.cluster.local"
    text = POLICIES.replace('API.stripe.com., "*.example.com"', names)
    assert check(capsys, text, folder) == []
    (line,) = check(capsys, text, folder, "--cluster", folder / "cluster.yaml")
    assert "domainNames[0]: is the Service shop/db with a cluster address" in line


@pytest.mark.parametrize("dns", [False, True])
def test_names_without_dns_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], dns: bool
) -> None:
    rule = "- {action: Accept, to: [{networks: [10.99.0.53/32]}], protocols: [{udp: {destinationPort: {number: 53}}}]}\n  "
    text = POLICIES.replace("- action: Deny", f"{rule if dns else ''}- action: Deny")
    (folder / "policies.yaml").write_text(text)
    _, out, _ = run(capsys, "check", folder / "policies.yaml")
    assert ("[no-dns]" in out) is not dns
    host = (
        "{apiVersion: podtally.io/v1alpha1, kind: HostPolicy, metadata: {name: x}, spec: {host: "
        "true, policyTypes: [Egress], egress: [{to: [{domainNames: [a.b]}]}"
        f"{', {ports: [{protocol: UDP, port: 53}]}' if dns else ''}]}}}}"
    )
    (folder / "policies.yaml").write_text(host)
    _, out, _ = run(capsys, "check", folder / "policies.yaml")
    assert ("[no-dns]" in out) is not dns


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: x}, spec: "
            "{egress: [{toFQDNs: [{matchName: a.example.com}]}]}}",
            "toFQDNs",
        ),
        (
            "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: x}, "
            "spec: {egress: [{action: Allow, destination: {domains: [a.example.com]}}]}}",
            "domains",
        ),
        (
            "{apiVersion: networking.gke.io/v1alpha1, kind: FQDNNetworkPolicy, metadata: {name: x},"
            " spec: {egress: [{matches: [{name: a.example.com}]}]}}",
            "matches",
        ),
    ],
)
def test_other_dialects_are_named_as_not_judged(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, field: str
) -> None:
    (line,) = check(capsys, text, folder)
    assert f"not evaluated, nor its rules by domain name ({field})" in line


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[com]", "invalid domain name"),
        ("['a.*.example.com']", "invalid domain name"),
        ("['*']", "invalid domain name"),
        ("[a.example.com, a.example.com]", "must not contain duplicates"),
        ("[]", "must have 1 to 25 items"),
        (str([f"n{n}.example.com" for n in range(26)]), "must have 1 to 25 items"),
        (f"[{'a' * 64}.example.com]", "never matches: a label has at most 63 characters"),
        (f"[{'a.' * 126}aa]", "never matches: a name has at most 253 characters"),
    ],
)
def test_what_is_wrong_with_names_of_either_kind(
    folder: Path, capsys: pytest.CaptureFixture[str], names: str, message: str
) -> None:
    host = (
        "{apiVersion: podtally.io/v1alpha1, kind: HostPolicy, metadata: {name: x}, spec: "
        f"{{host: true, policyTypes: [Egress], egress: [{{to: [{{domainNames: {names}}}]}}]}}}}"
    )
    for text in (host, POLICIES.replace('[API.stripe.com., "*.example.com"]', names)):
        assert any(message in line for line in check(capsys, text, folder)), text


def test_underscores_are_for_the_versions_that_have_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = POLICIES.replace("API.stripe.com.", "_dmarc.example.com")
    (line,) = check(capsys, text, folder)
    assert line.startswith("warning: ")
    assert "v1beta1 rejects it" in line


@pytest.mark.parametrize("more", ["host: true", "ipBlock: {cidr: 203.0.113.0/24}"])
def test_names_and_other_fields_are_two_peers(
    folder: Path, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    text = (
        "{apiVersion: podtally.io/v1alpha1, kind: HostPolicy, metadata: {name: x}, spec: "
        f"{{host: true, egress: [{{to: [{{domainNames: [a.b], {more}}}]}}]}}}}"
    )
    (line,) = (each for each in check(capsys, text, folder) if each.startswith("error"))
    assert "must not have domainNames and other fields; split it into two peers" in line


# -- explain -------------------------------------------------------------------------------------


def test_a_name_is_the_address_that_the_pod_got(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = explain(capsys, folder, "api.stripe.com")
    assert (status, found["to"]) == (0, "203.0.113.7")
    assert found["reason"] == (
        "ClusterNetworkPolicy/payments egress[0]: api.stripe.com, queried 12 s before, TTL 30"
    )
    assert "strict" not in found


def test_an_expired_answer_has_the_strict_verdict_beside(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = explain(capsys, folder, "203.0.113.8")
    assert (status, found["verdict"], found["strict"]) == (0, "allowed", "denied")
    assert found["reason"] == (
        "ClusterNetworkPolicy/payments egress[0]: old.example.com, queried 70 s before, TTL 30, "
        "expired 40 s before; denied where the TTLs of DNS answers are enforced"
    )


@pytest.mark.parametrize("address", ["203.0.113.9", "203.0.113.66"])
def test_answers_to_others_and_of_other_resolvers_allow_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    status, found = explain(capsys, folder, address)
    assert (status, found["verdict"]) == (1, "denied")


def test_without_names_it_is_unknown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--policies", folder / "policies.yaml", "--cluster", folder / "cluster.yaml")
    status, out, _ = run(capsys, "explain", "shop/web", "203.0.113.7", "443", *files)
    assert status == 1
    assert out.splitlines()[-1] == (
        "unknown: ClusterNetworkPolicy/payments egress[0]: whether api.stripe.com or "
        "*.example.com resolves to 203.0.113.7 is unknown: DNS is not captured"
    )


def test_a_name_without_an_answer_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--policies", folder / "policies.yaml", "--cluster", folder / "cluster.yaml")
    names = ("--names", folder / "names.yaml")
    status, _, err = run(capsys, "explain", "shop/web", "www.example.com", "443", *files, *names)
    assert status == 2
    assert "shop/web has no DNS answer for 'www.example.com'" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: 7", "no names"),
        ("- {pod: shop/web, name: a.b}", "names[0]"),
        ("- {pod: shop/web, name: a.b, ips: [300.1.1.1]}", "invalid address"),
        ("- {pod: shop/web, name: a.b, ips: [], ttl: -1}", "not negative"),
    ],
)
def test_unreadable_names_are_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (folder / "names.yaml").write_text(text)
    files = ("--policies", folder / "policies.yaml", "--cluster", folder / "cluster.yaml")
    names = ("--names", folder / "names.yaml")
    status, _, err = run(capsys, "explain", "shop/web", "a.b", "443", *files, *names)
    assert status == 2
    assert message in err


# -- test cases ----------------------------------------------------------------------------------


def test_cases_have_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = [{"namespace": "shop", "name": "web", "ips": ["10.99.0.1"]}]
    names = [
        {"pod": "shop/web", "name": "api.stripe.com", "ips": ["203.0.113.7"]},
        {"pod": "shop/web", "name": "old.example.com", "ips": ["203.0.113.8"], "ago": 70},
    ]
    source = {"pod": "shop/web"}
    probes = [
        {"from": source, "to": {"name": "api.stripe.com"}, "expect": "allow"},
        {
            "from": source,
            "to": {"name": "old.example.com"},
            "expect": "allow",
            "expect_strict": "deny",
        },
        {"from": source, "to": {"ip": "203.0.113.9"}, "expect": "deny"},
        {"from": source, "to": {"name": "www.example.com"}, "expect": "deny"},
    ]
    case = {
        "namespaces": [{"name": "shop"}],
        "pods": pods,
        "names": names,
        "probes": [{**probe, "port": 443} for probe in probes],
    }
    file = folder / "tests.json"
    file.write_text(json.dumps(case))
    arguments = ("check", "--probes", file, folder / "policies.yaml", "-o", "json")
    status, out, err = run(capsys, *arguments)
    rows = json.loads(out)["probes"]
    assert [(row["verdict"], row["strict"], row["ok"]) for row in rows] == [
        ("allowed", "allowed", True),
        ("allowed", "denied", True),
        ("denied", "denied", True),
        ("unknown", "unknown", False),
    ]
    assert status == 1
    assert "names has no address of 'www.example.com' for this pod" in err
    file.write_text(
        json.dumps({**case, "names_complete": False, "probes": [{**probes[2], "port": 443}]})
    )
    _, out, _ = run(capsys, *arguments)
    assert json.loads(out)["probes"][0]["verdict"] == "unknown"


# -- candidates ----------------------------------------------------------------------------------


def test_candidates_show_the_domain_of_a_peer_outside(capsys: pytest.CaptureFixture[str]) -> None:
    row = CandidateRow(
        namespace="shop",
        workload="web",
        direction="egress",
        peer_kind="external",
        peer_namespace="",
        peer_workload="",
        protocol="tcp",
        port="443",
        verdict="denied",
        candidate="allowed",
        policy="",
        peer_domain="stripe.com",
        connections=2,
        bytes=46,
    )
    candidates.show(Candidates([], [row]), sys.stdout)
    assert "external:stripe.com" in capsys.readouterr().out

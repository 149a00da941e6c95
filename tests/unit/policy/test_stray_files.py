# SPDX-License-Identifier: Apache-2.0
"""Stray and broken files among the policies: what they put in doubt, and what stays in force."""

import json
from pathlib import Path
from typing import Any

import pytest

from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.parser import read_text
from podtally.policy.load.policy_files import LoadedFiles, PolicyFiles
from podtally.policy.model import (
    DENIED,
    EVERYTHING,
    HOST,
    UNDECLARED,
    UNKNOWN,
    HostSubject,
    PodSubject,
    PolicyEndpoint,
)
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_api import changed, network_policy, page
from tests.unit.policy.policy_support import ask, ip, outside, pod

HEAD = (
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
)
ADMIN = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: a}
spec:
  priority: 5
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to:
    - networks: [203.0.113.0/24]
"""
VALUES = "replicaCount: 2\nimage: {repository: web, tag: '1'}\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: [",  # nothing in it can be read
        "replicaCount: 1\nimage: {tag: [",
        "{{- if .Values.np }}\n" + HEAD + "{{- end }}\n",
        HEAD.replace("shop", "${NS}"),
        HEAD.replace("shop", "{{ .Release.Namespace }}"),
        HEAD.replace("NetworkPolicy", "Deployment") + "spec: [",
    ],
)
def test_a_text_that_speaks_of_no_policy_puts_nothing_in_doubt(text: str) -> None:
    reading = read_text(text, "t.yaml", candidate=True)
    ((stand_in,), (problem,)) = reading.policies, reading.problems
    assert (stand_in.subject, stand_in.candidate) == (HostSubject(), True)
    assert stand_in.unreadable == str(problem) == str(reading.lost[0])
    assert problem.severity == "error"
    verdicts = [
        Engine([stand_in._replace(candidate=False)]).judge(ask(one, other)).verdict
        for one in (pod("shop/a"), PolicyEndpoint(HOST, ips=(ip("10.99.0.9"),)))
        for other in (pod("shop/b", "10.99.0.2"), outside())
    ]
    assert set(verdicts) == {UNDECLARED}


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        (HEAD + "spec: [", {("shop", PodSubject(None, EVERYTHING))}),
        (HEAD.replace(", namespace: shop", "") + "spec: [", {("default", PodSubject(None, EVERYTHING))}),
        (HEAD + "metadata: {name: q, namespace: pay}", {(n, PodSubject(None, EVERYTHING)) for n in ("shop", "pay")}),
        (HEAD.replace("shop", "Not_One") + "a: [", {("", PodSubject(EVERYTHING, EVERYTHING))}),
        (ADMIN + "    - [", {("", PodSubject(EVERYTHING, EVERYTHING))}),
        ('{"kind": "NetworkPolicy", "metadata": {"namespace": "shop"', {("shop", PodSubject(None, EVERYTHING))}),
        ("kind: HostPolicy\nspec: [", {("", HostSubject(EVERYTHING, host=True))}),
    ],
)  # fmt: skip
def test_a_broken_text_puts_in_doubt_what_it_speaks_of(text: str, subjects: Any) -> None:
    reading = read_text(text, "t.yaml")
    assert {(p.namespace, p.subject) for p in reading.policies} == subjects
    assert all(policy.unreadable == str(reading.lost[0]) for policy in reading.policies)


@pytest.mark.parametrize(
    "text",
    ["replicaCount: 1\nservice: {port: 80}\n", "hello", "- a\n- b\n", "apiVersion: v1\ndata: {}\n",
     "kind: Values\n", "apiVersion: v2\nname: chart\nversion: 1.0.0\n"],
)  # fmt: skip
def test_what_is_not_an_object_is_skipped_with_a_warning(text: str) -> None:
    reading = read_text(f"{text}\n---\n{HEAD}", "t.yaml")
    assert [policy.unreadable for policy in reading.policies] == [""]
    (problem,) = reading.problems
    assert (problem.severity, "skipped" in problem.message) == ("warning", True)
    assert reading.lost == ()


def test_all_that_is_wrong_with_an_object_is_reported_and_each_once() -> None:
    text = (
        HEAD
        + """spec:
  podSelectors: {}
  ingress:
  - from: [{podSelectr: {}}, {ipBlock: {cidr: 10.0.0.0/99}}]
    ports: [{port: 0}, {port: http, protocl: UDP}]
  - fron: []
  egress:
  - from: [{podSelector: {}}]
  policyTypes: [ingress]
"""
    )
    found = [(p.field, p.message) for p in read_text(text, "t").problems]
    assert found == [
        ("spec.podSelectors", 'unknown field "podSelectors" (did you mean "podSelector"?)'),
        ("spec.ingress[0].from[0].podSelectr", 'unknown field "podSelectr" (did you mean "podSelector"?)'),
        ("spec.ingress[0].ports[1].protocl", 'unknown field "protocl" (did you mean "protocol"?)'),
        ("spec.ingress[1].fron", 'unknown field "fron" (did you mean "from"?)'),
        ("spec.egress[0].from", 'unknown field "from" (did you mean "to"?)'),
        ("spec.ingress[0].ports[0].port", "must be between 1 and 65535"),
        ("spec.ingress[0].from[1].ipBlock.cidr", "invalid CIDR '10.0.0.0/99': use the form 203.0.113.0/24"),
        ("spec.policyTypes[0]", "unsupported value 'ingress': use one of Ingress, Egress (did you mean \"Ingress\"?)"),
    ]  # fmt: skip


def verdict(loaded: LoadedFiles, namespace: str = "shop", address: str = "203.0.113.9") -> str:
    """Return the verdict of a pod's connection to an address."""
    question = ask(pod(f"{namespace}/a"), outside(address))
    return Engine(loaded.parsed.policies).judge(question).verdict


CLOSED = "spec: {podSelector: {}, policyTypes: [Egress]}\n"


@pytest.mark.parametrize(
    "stray",
    [VALUES, "a: [", "{{- if .Values.np }}\nkind: NetworkPolicy\n{{- end }}\n", "just text", "kind: Chart\n",
     HEAD.replace("shop", "${NS}") + CLOSED, HEAD.replace("shop", "elsewhere") + "spec: [",
     HEAD.replace("name: p, namespace: shop", "name: q, namespace: elsewhere") + "spec: {ingres: []}"],
)  # fmt: skip
def test_a_stray_file_does_not_weaken_what_other_policies_decide(
    tmp_path: Path, stray: str
) -> None:
    (tmp_path / "admin.yaml").write_text(ADMIN)
    (tmp_path / "closed.yaml").write_text(HEAD + CLOSED)
    files = PolicyFiles([tmp_path])
    addresses = ("203.0.113.9", "198.51.100.1")
    before = [verdict(files.load(), address=address) for address in addresses]
    assert before == [DENIED, DENIED]
    (tmp_path / "stray.yaml").write_text(stray)
    assert [verdict(files.load(), address=address) for address in addresses] == before
    assert verdict(files.load(), "pay", "198.51.100.1") == UNDECLARED
    fresh = PolicyFiles([tmp_path]).load()  # as an agent that starts now reads them
    assert [verdict(fresh, address=address) for address in addresses] == before


def test_a_policy_of_an_unknown_namespace_leaves_the_admin_tier_certain(tmp_path: Path) -> None:
    (tmp_path / "admin.yaml").write_text(ADMIN)
    (tmp_path / "odd.yaml").write_text(HEAD.replace("shop", "[shop]"))
    loaded = PolicyFiles([tmp_path]).load()
    assert verdict(loaded) == DENIED
    assert verdict(loaded, address="198.51.100.1") == UNKNOWN


def test_a_file_in_a_folder_that_cannot_be_opened_is_reported_and_decides_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "closed.yaml").write_text(HEAD + CLOSED)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    loaded = PolicyFiles([tmp_path]).load()
    assert (verdict(loaded), verdict(loaded, "pay")) == (DENIED, UNDECLARED)
    assert [bool(policy.unreadable) for policy in loaded.parsed.policies] == [False, True]


def listed(*names: str, **more: str) -> str:
    return "---\n".join(
        HEAD.replace("name: p", f"name: {name}") + f"spec: {more.get(name, '{}')}\n"
        for name in names
    )


def in_force(loaded: LoadedFiles) -> dict[str, str]:
    return {policy.name: policy.unreadable[:1] for policy in loaded.parsed.policies}


def test_each_object_of_a_file_keeps_its_last_good_version(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(listed("a", "b", "c"))
    files = PolicyFiles([path])
    assert in_force(files.load()) == {"a": "", "b": "", "c": ""}

    path.write_text(listed("a", "b", "d", a="{ingres: []}", b="{egress: [{}]}"))
    loaded = files.load()
    assert (in_force(loaded), loaded.stale) == ({"a": "", "b": "", "d": ""}, (str(path),))
    assert {policy.name: bool(policy.egress) for policy in loaded.parsed.policies}["b"]

    path.write_text(listed("a", "b", "d", a="[", d="{x: 1}"))  # a is text, and x is not known
    loaded = files.load()
    assert (in_force(loaded), loaded.stale) == ({"a": "", "b": "", "d": ""}, (str(path),))
    new = {policy.name: policy for policy in loaded.parsed.policies}["b"]
    assert not new.egress  # what can be read is in force as it is now

    path.write_text(listed("b", "e", e="{x: 1}"))  # a and d were taken back, e never was good
    loaded = files.load()
    assert (in_force(loaded), loaded.stale) == ({"b": "", "e": str(path)[:1]}, ())


def test_an_ingress_that_cannot_be_read_any_more_stays_declared(tmp_path: Path) -> None:
    good = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(good))
    files = PolicyFiles([path])
    before = files.load().parsed.ingresses
    assert [ingress.name for ingress in before] == ["web"]
    for broken in (json.dumps(good | {"spec": {"x": 1}}), "{"):
        path.write_text(broken)
        loaded = files.load()
        assert (loaded.parsed.ingresses, loaded.stale) == (before, (str(path),))


def test_an_ingress_that_never_was_readable_may_declare_what_is_in_its_namespace() -> None:
    text = HEAD.replace("NetworkPolicy", "Ingress") + "spec: {rulez: []}\n"
    (found,) = read_text(text, "t.yaml").ingresses
    assert (found.namespace, found.name, found.routes) == ("shop", "p", ())
    assert 'unknown field "rulez" (did you mean "rules"?)' in found.unreadable
    assert read_text(text.replace("shop", "[]"), "t.yaml").ingresses == ()


def test_an_object_of_the_api_that_cannot_be_read_any_more_stays_in_force() -> None:
    live = LivePolicies()
    for name in POLICY_RESOURCE_NAMES:
        live.apply(page(name, []))
    good = network_policy("shop/p", policyTypes=["Egress"])
    live.apply(changed("networkpolicies", "ADDED", good))
    before = live.now()
    newer = network_policy("shop/p", policyTypes=["Egress"], brandNew=1)
    for event in (changed("networkpolicies", "MODIFIED", newer), page("networkpolicies", [newer])):
        live.apply(event)
        now = live.now()
        assert (now.policies, now.stale) == (before.policies, 1)
        assert "brandNew" in str(now.problems[0])
        assert live.now() is now
    live.apply(changed("networkpolicies", "MODIFIED", good))
    assert (live.now().policies, live.now().stale, live.now().problems) == (before.policies, 0, ())
    live.apply(changed("networkpolicies", "MODIFIED", newer))
    live.apply(changed("networkpolicies", "DELETED", newer))
    for reason in ("first", "second"):
        live.apply(changed("networkpolicies", "ADDED", network_policy("shop/q", **{reason: 1})))
        assert reason in live.now().policies[0].unreadable
    live.apply(changed("networkpolicies", "DELETED", network_policy("shop/q")))
    assert (live.now().policies, live.now().stale) == ((), 0)

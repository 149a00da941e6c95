# SPDX-License-Identifier: Apache-2.0
"""Endpoints by name, and explanations between two of them, over a real directory."""

import time

import pytest

from podtally.api.query_service import QueryService
from podtally.config import StaticEndpoint
from podtally.errors import PodtallyError
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.policy_sources import PolicySources
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.lookup_host import INTO_WEB, NO_EGRESS, Host, labelled, shop

ONLY_PORT_80 = """\
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {name: ssh}
spec: {units: [ssh.service], egress: [{ports: [{port: 80}]}], policyTypes: [Egress]}
"""
HOST_CLOSED = """\
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {name: closed}
spec: {host: true, ingress: []}
"""
BOX_CLOSED = HOST_CLOSED.replace("closed", "box").replace("host: true", 'containers: ["box*"]')


@pytest.fixture
def host() -> Host:
    return shop()


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("shop/web-0", "shop/web-0 (10.99.0.2)"),
        ("shop/web-1", "shop/web-1 (10.99.1.2)"),
        ("shop/web", "shop/web-0 (10.99.0.2)"),
        ("shop/db", "shop/db-0 (10.99.0.3)"),
        ("people/user", "people/user-0 (10.99.1.4)"),
        ("10.99.0.2", "shop/web-0 (10.99.0.2)"),
        ("10.99.1.3", "shop/db-1 (10.99.1.3)"),
        ("10.99.9.2", "node there (10.99.9.2)"),
        ("there", "node there (10.99.9.2)"),
        ("10.99.9.1", "host here (10.99.9.1)"),
        ("host", "host here (10.99.9.1)"),
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_endpoints_by_name(host: Host, asked: str, shown: str) -> None:
    assert host.explain(asked, "203.0.113.10").from_ == shown
    assert host.explain("203.0.113.10", asked).to == shown


def test_the_address_is_of_the_family_that_both_have(host: Host) -> None:
    explanation = host.explain("shop/web-1", "2001:db8::2")
    assert (explanation.from_, explanation.to) == (
        "shop/web-1 (2001:db8:1::2)",
        "shop/web-0 (2001:db8::2)",
    )


@pytest.mark.parametrize(
    ("asked", "what", "fix"),
    [
        ("shop/wep-0", "unknown endpoint 'shop/wep-0'", "known names: shop/web-0"),
        ("shop/quux", "'shop/quux'", "known names: shop/db, shop/db-0, shop/db-1, shop/web"),
        ("shoop/web", "'shoop/web'", "known namespaces: shop"),
        ("web-0", "'web-0'", "use NAMESPACE/POD, NAMESPACE/WORKLOAD, an address, or "),
        ("hos", "'hos'", "or one of host"),
        ("ther", "'ther'", "or one of there"),
        ("10.99.0", "'10.99.0'", "use NAMESPACE/POD"),
        ("shop/sql", "shop/sql is a Service", "its own port"),
        ("198.18.0.3", "shop/sql is a Service", "its own port"),
        ("unknown/unknown", "'unknown/unknown'", "namespaces"),
        ("/", "'/'", "namespaces"),
        ("x" * 1000, "'" + "x" * 100 + "'", "use"),
    ],
)
def test_unknown_endpoints(host: Host, asked: str, what: str, fix: str) -> None:
    host.link(None, "10.99.0.77")  # an unknown owner
    with pytest.raises(PodtallyError) as refused:
        host.explain(asked, "203.0.113.10")
    assert refused.value.what.endswith(what) or refused.value.what.startswith(what)
    assert fix in refused.value.fix


def test_labels_of_pods_and_namespaces_and_named_ports(host: Host) -> None:
    host.declare(INTO_WEB)
    explanation = host.explain("people/user", "shop/web", 8080)
    assert (explanation.verdict, explanation.ingress, explanation.egress) == (
        "allowed",
        "allowed",
        "undeclared",
    )
    assert explanation.reason == "shop/into-web ingress[0]"
    assert explanation.candidate is None
    assert host.explain("people/user", "shop/web", 80).verdict == "denied"
    assert "team=a" in host.explain("shop/db", "shop/web", 8080).reason
    assert host.explain("203.0.113.9", "shop/web-1", 8080).verdict == "allowed"
    assert host.explain("198.18.5.5", "shop/web-1", 8080).verdict == "denied"
    steps = [(step.item, step.result) for step in explanation.steps if step.item]
    assert steps[0] == ("shop/into-web", "selects the destination and isolates it")


def test_changed_labels_are_read_again(host: Host) -> None:
    host.declare(INTO_WEB)
    answers = host.answers
    assert answers.explain("shop/db", "shop/web", "8080").verdict == "denied"
    host.report("namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    assert answers.explain("shop/db", "shop/web", "8080").verdict == "allowed"


def test_an_endpoint_without_a_name_is_unknown(host: Host) -> None:
    host.declare(INTO_WEB)
    host.link(None, "10.99.0.77")
    explanation = host.explain("10.99.0.77", "shop/web", 8080)
    assert (explanation.from_, explanation.verdict, explanation.egress) == (
        "10.99.0.77",
        "unknown",
        "unknown",
    )
    assert "no known owner of 10.99.0.77" in explanation.reason


def test_a_pod_that_has_gone_gives_its_name_to_the_next(host: Host) -> None:
    host.declare(INTO_WEB)
    old = host.link(CgroupOwner("pod", "uid-old", "e" * 64), "10.99.0.9")
    host.report(
        "pods", labelled("web-0", "10.99.0.2"), labelled("cache-0", "10.99.0.9", uid="uid-old")
    )
    assert host.explain("shop/cache", "203.0.113.9").from_ == "shop/cache-0 (10.99.0.9)"
    host.report(
        "pods", labelled("web-0", "10.99.0.2"), labelled("cache-0", "10.99.0.8", uid="uid-new")
    )
    host.directory.gone(old, time.monotonic_ns())
    host.link(CgroupOwner("pod", "uid-new", "f" * 64), "10.99.0.8")
    assert host.explain("shop/cache", "203.0.113.9").from_ == "shop/cache-0 (10.99.0.8)"


def test_a_deleted_pod_is_unknown(host: Host) -> None:
    host.explain("shop/db-0", "shop/db-1")
    host.directory.gone(8, time.monotonic_ns())  # db-0
    host.report("pods", labelled("web-0", "10.99.0.2"))
    time.sleep(0.05)
    for asked in ("shop/db-0", "shop/db-1", "shop/db"):
        with pytest.raises(PodtallyError, match="unknown endpoint"):
            host.explain(asked, "203.0.113.9")


def test_of_a_workload_a_pod_of_this_host_is_taken_before_others(host: Host) -> None:
    pods = labelled("cache-0", "10.99.1.9", on="there"), labelled("cache-1", "10.99.0.9")
    host.report("pods", *pods)
    assert host.explain("shop/cache", "203.0.113.9").from_ == "shop/cache-0 (10.99.1.9)"
    host.link(CgroupOwner("pod", "uid-cache-1", "e" * 64), "10.99.0.9")
    assert host.explain("shop/cache", "203.0.113.9").from_ == "shop/cache-1 (10.99.0.9)"


def test_endpoints_that_are_no_pods() -> None:
    host = Host(
        StaticEndpoint("plain", netns="blue"),
        StaticEndpoint("api-0", "front", "api", netns="red", labels={"app": "web"}),
        cluster=False,
    )
    host.link(None, "10.99.0.5", netns="blue")
    host.link(None, "10.99.0.6", netns="red")
    host.link(CgroupOwner("docker", "box1", "a" * 64), "10.99.0.7")
    host.directory.socket_found(23, CgroupOwner("systemd", "ssh.service"), time.monotonic_ns())
    host.directory.host_addresses(["198.18.0.1", "fe80::1"])
    host.declare(
        ONLY_PORT_80,
        HOST_CLOSED,
        BOX_CLOSED,
        INTO_WEB.replace("namespace: shop", "namespace: front"),
    )
    assert host.explain("ssh.service", "203.0.113.9").reason == "HostPolicy/ssh egress[0]"
    explanation = host.explain("systemd/ssh.service", "203.0.113.9", 25)
    assert (explanation.from_, explanation.verdict) == ("ssh.service (198.18.0.1)", "denied")
    assert host.explain("203.0.113.9", "host", 22).verdict == "denied"
    assert host.explain("203.0.113.9", "198.18.0.1", 22).to == "host this node (198.18.0.1)"
    explanation = host.explain("203.0.113.9", "box1")
    assert (explanation.to, explanation.ingress) == ("box1 (10.99.0.7)", "denied")
    assert host.explain("10.99.0.7", "10.99.0.5").from_ == "box1 (10.99.0.7)"
    explanation = host.explain("203.0.113.9", "plain")
    assert (explanation.to, explanation.verdict) == ("host plain (10.99.0.5)", "undeclared")
    assert host.explain("plain", "front/api", 8080).ingress == "denied"
    assert host.explain("203.0.113.9", "front/api", 8080).ingress == "denied"  # it names no port
    with pytest.raises(PodtallyError, match=r"ssh\.service"):
        host.explain("sshd.service", "203.0.113.9")


def test_of_several_addresses_of_the_host_none_is_guessed() -> None:
    host = Host(cluster=False)
    host.directory.host_addresses(["198.18.0.1", "10.99.0.1", "2001:db8::1"])
    assert host.explain("host", "203.0.113.9").from_ == "host this node"
    host.directory.host_addresses(["198.18.0.1", "fe80::1", "169.254.7.7", "2001:db8::1"])
    assert host.explain("host", "203.0.113.9").from_ == "host this node (198.18.0.1)"
    assert host.explain("host", "2001:db8::9").from_ == "host this node (2001:db8::1)"


def test_pods_on_host_networks(host: Host) -> None:
    """They have no address of their own, and NetworkPolicies do not select them."""
    pods = [labelled("cni-0", "10.99.9.1"), labelled("cni-1", "10.99.9.2", on="there")]
    for each in pods:
        each["spec"]["hostNetwork"] = True
        host.report_more("pods", each)
    host.declare(NO_EGRESS)
    explanation = host.explain("shop/cni-0", "203.0.113.9")
    assert (explanation.from_, explanation.egress) == ("shop/cni-0 (10.99.9.1)", "undeclared")
    assert host.explain("shop/cni-1", "shop/web-0").from_ == "shop/cni-1 (10.99.9.2)"
    assert host.explain("shop/web-0", "shop/cni").to == "shop/cni-0 (10.99.9.1)"
    with pytest.raises(PodtallyError, match="cni-0"):
        host.explain("shop/cni-7", "203.0.113.9")


def test_candidates_are_a_second_verdict(host: Host) -> None:
    host.declare(INTO_WEB, candidates=[NO_EGRESS, "{"])
    explanation = host.explain("shop/db", "203.0.113.9")
    assert explanation.verdict == "undeclared"
    assert explanation.candidate is not None
    host.declare(INTO_WEB, candidates=[NO_EGRESS])
    explanation = host.explain("shop/db", "203.0.113.9")
    assert explanation.candidate is not None
    assert (explanation.verdict, explanation.candidate.verdict) == ("undeclared", "denied")
    assert explanation.candidate.reason.startswith("denied by default: shop/no-egress selects it")
    named = [(each.namespace, each.name, each.unreadable) for each in host.answers.candidates()]
    assert named == [("shop", "no-egress", "")]
    host.declare(candidates=["{"])
    (each,) = host.answers.candidates()
    assert (each.name, each.unreadable[:5]) == ("next", "next:")


def test_a_candidate_takes_the_place_of_its_namesake(host: Host) -> None:
    host.declare(NO_EGRESS, candidates=[NO_EGRESS.replace("[Egress]}", "[Egress], egress: [{}]}")])
    explanation = host.explain("shop/db", "203.0.113.9")
    assert explanation.candidate is not None
    assert (explanation.verdict, explanation.candidate.verdict) == ("denied", "allowed")


def test_until_the_api_is_synced_nothing_is_undeclared(host: Host) -> None:
    sources = PolicySources(live=LivePolicies())
    sources.declared()
    explanation = QueryService(host.directory, lambda: sources.latest)
    host.directory.refresh(time.monotonic_ns())
    assert explanation.explain("shop/web", "203.0.113.9", "80").verdict == "unknown"

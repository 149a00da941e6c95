# SPDX-License-Identifier: Apache-2.0
"""Suggested policies where naive generators go wrong."""

import pytest

from podtally.policy.model import Block, PodPeer, PodSubject, PolicyPort, Requirement, Selector
from podtally.suggest.conversation import ObservedConversation
from tests.unit.suggest.suggest_support import DAY, WEEK, SuggestWorld


@pytest.fixture
def shop() -> SuggestWorld:
    """A frontend and a backend; nothing was seen yet."""
    world = SuggestWorld()
    world.pods("shop/frontend", {"app": "frontend", "tier": "web"})
    world.pods("shop/backend", {"app": "backend", "tier": "web"})
    return world


def label(key: str, value: str) -> Requirement:
    return Requirement(key, "In", frozenset((value,)))


def test_a_pair_of_workloads(shop: SuggestWorld) -> None:
    shop.pods("shop/other", {"app": "other"})
    shop.seen("shop/frontend", "shop/backend", 3000)
    proof = shop.suggest()
    assert proof.holds, proof
    (rule,) = shop.of("shop/backend", "ingress").rules
    assert rule.rule.peers == (PodPeer(None, Selector((label("app", "frontend"),))),)
    assert rule.rule.ports == (PolicyPort(6, 3000, 3000),)
    assert shop.verdict("shop/frontend", "shop/backend", 3000) == "allowed"
    assert shop.verdict("shop/other", "shop/backend", 3000) == "denied"
    assert shop.verdict("shop/frontend", "shop/backend", 3001) == "denied"
    assert proof.possible.after < proof.possible.before


def test_the_same_input_makes_the_same_bytes(shop: SuggestWorld) -> None:
    shop.seen("shop/frontend", "shop/backend", 3000)
    shop.seen("shop/frontend", "198.51.100.7", 443)
    shop.suggest()
    first = shop.text
    shop.rows.reverse()
    shop.suggest()
    assert shop.text == first


def test_labels_shared_by_two_workloads(shop: SuggestWorld) -> None:
    """Only ``app`` differs: ``tier`` is on both, and is not written."""
    shop.pods("shop/client", {"tier": "client"})
    shop.seen("shop/client", "shop/backend", 3000)
    assert shop.suggest().holds
    assert shop.verdict("shop/client", "shop/frontend", 3000) == "denied"
    assert "tier: web" not in shop.text


def test_the_subject_has_its_workloads_own_selector_and_peers_the_fewest_labels() -> None:
    world = SuggestWorld()
    world.pods("shop/web", {"app": "web", "part": "shop", "version": "3"})
    world.pods("shop/db", {"app": "db", "part": "shop"})
    own = Selector((label("app", "web"), label("part", "shop")))
    world.own_selectors["shop", "web"] = own
    world.seen("shop/web", "shop/db", 3306)
    assert world.suggest().holds
    assert world.of("shop/web", "egress").policy.subject == PodSubject(None, own)
    (rule,) = world.of("shop/db", "ingress").rules
    assert rule.rule.peers == (PodPeer(None, Selector((label("app", "web"),))),)


@pytest.mark.parametrize(
    "own",
    [
        Selector((label("part", "shop"),)),  # selects the other workload, too
        Selector((label("app", "old"),)),  # not the pods that there are
        Selector(),  # all
    ],
)
def test_a_selector_that_is_not_of_its_pods_alone_is_not_taken(own: Selector) -> None:
    world = SuggestWorld()
    world.pods("shop/web", {"app": "web", "part": "shop"})
    world.pods("shop/db", {"app": "db", "part": "shop"})
    world.own_selectors["shop", "web"] = own
    world.seen("shop/web", "shop/db", 3306)
    assert world.suggest().holds
    found = world.of("shop/web", "egress").policy.subject
    assert found == PodSubject(None, Selector((label("app", "web"),)))


def test_a_workload_without_a_unique_label() -> None:
    """The other has one more: only its absence tells them apart."""
    world = SuggestWorld()
    world.pods("shop/db", {"app": "db"})
    world.pods("shop/db-backup", {"app": "db", "role": "backup"})
    world.pods("shop/web", {"app": "web"})
    world.seen("shop/web", "shop/db", 5432)
    world.seen("shop/db-backup", "shop/db", 5432)
    assert world.suggest().holds
    assert world.verdict("shop/web", "shop/db", 5432) == "allowed"
    assert world.verdict("shop/web", "shop/db-backup", 5432) == "denied"


def test_workloads_with_the_same_labels_have_one_policy() -> None:
    world = SuggestWorld()
    for name in ("blue", "green"):
        world.pods(f"shop/{name}", {"app": "web"})
    world.pods("shop/db", {"app": "db"})
    world.seen("shop/blue", "shop/db", 5432)
    world.seen("shop/green", "shop/db", 5433)
    assert world.suggest().holds
    assert world.of("shop/blue", "egress") is world.of("shop/green", "egress")
    assert "No label tells these workloads apart" in world.text


def test_a_service_with_a_selector_unlike_the_pods_labels(shop: SuggestWorld) -> None:
    """Rules name pods and their ports, whatever selects the Service's backends."""
    shop.pods("shop/api", {"app": "api", "svc": "public"}, ports={"http": 8080})
    shop.seen("shop/frontend", "shop/api", 8080)
    assert shop.suggest().holds
    (rule,) = shop.of("shop/frontend", "egress").rules
    assert rule.rule.ports == (PolicyPort(6, name="http"),)
    assert shop.verdict("shop/frontend", "shop/api", 8080) == "allowed"


def test_a_headless_service() -> None:
    """Pods of a StatefulSet are peers of each other, and no pod's own name is written."""
    world = SuggestWorld()
    for number in range(3):
        labels = {"app": "etcd", "statefulset.kubernetes.io/pod-name": f"etcd-{number}"}
        world.pods("data/etcd", labels, count=1)
    world.pods("data/web", {"app": "web"})
    world.seen("data/etcd", "data/etcd", 2380)
    assert world.suggest().holds
    assert "pod-name" not in world.text
    assert world.verdict("data/web", "data/etcd", 2380) == "denied"


def test_a_sidecars_port_that_no_container_declares(shop: SuggestWorld) -> None:
    shop.pods("mon/prometheus", {"app": "prometheus"})
    shop.seen("mon/prometheus", "shop/backend", 15020)
    assert shop.suggest().holds
    (rule,) = shop.of("shop/backend", "ingress").rules
    assert rule.rule.ports == (PolicyPort(6, 15020, 15020),)


def test_a_rollout_within_the_window() -> None:
    """Pods before it had another version, which only the history knows."""
    world = SuggestWorld()
    world.pods("shop/web", {"app": "web", "version": "v2"})
    world.pods("shop/db", {"app": "db", "version": "v1"})
    world.seen("shop/web", "shop/db", 5432, labels={"app": "web", "version": "v1"})
    world.seen("shop/web", "shop/db", 5432, labels={"app": "web", "version": "v2"})
    assert world.suggest().holds
    assert "version" not in world.text


def test_a_name_with_200_addresses_is_no_list_of_addresses(shop: SuggestWorld) -> None:
    for number in range(200):
        shop.seen(
            "shop/backend",
            f"151.101.{number}.7",
            443,
            domain="cdn.example.com",
            first=WEEK[0] + number * 3000,
            last=WEEK[0] + number * 3000 + 600,
        )
    assert shop.suggest().holds
    (rule,) = shop.of("shop/backend", "egress").rules
    (peer,) = rule.rule.peers or ()
    assert isinstance(peer, Block)
    assert peer.excepted
    assert "/32" not in shop.text
    assert "cdn.example.com" in shop.text
    assert shop.verdict("shop/backend", "151.101.1.1", 25) == "denied"
    assert shop.verdict("shop/backend", "10.1.2.3", 443) == "denied"


def test_a_stable_address_is_written_as_such(shop: SuggestWorld) -> None:
    shop.seen("shop/backend", "203.0.113.10", 3306)
    assert shop.suggest().holds
    assert "203.0.113.10/32" in shop.text
    assert shop.verdict("shop/backend", "203.0.113.11", 3306) == "denied"


def test_ipv6(shop: SuggestWorld) -> None:
    shop.seen("shop/backend", "2001:db8::10", 3306)
    shop.seen("shop/backend", "2606:4700::1", 443, last=WEEK[0] + DAY)
    assert shop.suggest().holds
    assert shop.verdict("shop/backend", "2001:db8::10", 3306) == "allowed"
    assert shop.verdict("shop/backend", "2001:db8::11", 3306) == "denied"
    assert shop.verdict("shop/backend", "2606:4700::2", 443) == "allowed"


def test_a_pod_in_another_namespace_with_the_same_labels(shop: SuggestWorld) -> None:
    shop.pods("staging/frontend", {"app": "frontend", "tier": "web"})
    shop.pods("tools/probe", {"app": "probe"})
    shop.seen("tools/probe", "shop/frontend", 80)
    assert shop.suggest().holds
    assert shop.verdict("tools/probe", "shop/frontend", 80) == "allowed"
    assert shop.verdict("tools/probe", "staging/frontend", 80) == "denied"


def test_egress_to_the_api_server(shop: SuggestWorld) -> None:
    shop.node("control", "10.98.0.1")
    shop.node("worker", "10.98.0.2")
    shop.seen("shop/backend", "control", 6443, peer_address="10.98.0.1")
    assert shop.suggest().holds
    assert shop.verdict("shop/backend", "10.98.0.1", 6443) == "allowed"
    assert shop.verdict("shop/backend", "10.98.0.2", 6443) == "denied"


def test_host_network_peers_are_their_nodes(shop: SuggestWorld) -> None:
    shop.node("worker", "10.98.0.2")
    shop.host_pod("mon/node-exporter", {"app": "node-exporter"}, shop.nodes[0])
    shop.seen("shop/backend", "mon/node-exporter", 9100, peer_address="10.98.0.2")
    assert shop.suggest().holds
    assert "node-exporter" not in shop.text.replace("# ", "")
    assert shop.verdict("shop/backend", "10.98.0.2", 9100) == "allowed"


def test_probes_of_the_own_node_need_no_rule(shop: SuggestWorld) -> None:
    shop.node("worker", "10.98.0.2")
    shop.pods("shop/web", {"app": "web"}, node="worker")
    shop.seen(
        "shop/web", "worker", 8080, direction="ingress", peer_address="10.98.0.2", node="worker"
    )
    assert shop.suggest().holds
    assert shop.of("shop/web", "ingress").rules == ()
    assert "own node: always allowed" in shop.text


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_port_range(shop: SuggestWorld, protocol: str) -> None:
    """Passive FTP, or RTP: each transfer has a port of its own, and data."""
    for port in range(30000, 30060, 3):
        shop.seen(
            "shop/frontend",
            "shop/backend",
            port,
            protocol=protocol,
            connections=1,
            first=WEEK[0],
            last=WEEK[0] + 5,
        )
    assert shop.suggest().holds
    (rule,) = shop.of("shop/frontend", "egress").rules
    ((_, first, last, _),) = rule.rule.ports or ()
    assert (first, last) == (30000, 30057)


def test_a_scan_within_the_window(shop: SuggestWorld) -> None:
    shop.seen("shop/frontend", "shop/backend", 3000)
    shop.pods("shop/scanner", {"app": "scanner"})
    for port in range(1, 2000):
        outcome = "closed" if port == 22 else "refused"
        shop.seen(
            "shop/scanner",
            "shop/backend",
            port,
            connections=1,
            bytes=60,
            outcome=outcome,
            first=WEEK[0],
            last=WEEK[0] + 1,
        )
    assert shop.suggest().holds
    assert shop.of("shop/scanner", "egress").rules == ()
    assert shop.verdict("shop/scanner", "shop/backend", 22) == "denied"
    assert "and 1993 more" in shop.text


def test_a_client_that_only_ever_failed(shop: SuggestWorld) -> None:
    shop.seen("shop/frontend", "203.0.113.99", 25, outcome="unanswered")
    assert shop.suggest().holds
    assert shop.of("shop/frontend", "egress").rules == ()
    assert shop.suggest(include=["failed"]).holds
    assert shop.verdict("shop/frontend", "203.0.113.99", 25) == "allowed"


def test_denied_and_unknown_are_not_allowed_unless_included(shop: SuggestWorld) -> None:
    shop.seen("shop/frontend", "shop/backend", 1, verdict="denied")
    shop.seen("shop/frontend", "shop/backend", 2, verdict="unknown")
    assert shop.suggest().holds
    assert shop.of("shop/frontend", "egress").rules == ()
    shop.suggest(include=["denied", "unknown"])
    assert shop.verdict("shop/frontend", "shop/backend", 1) == "allowed"


def test_dns_is_allowed_to_the_resolver_that_was_used(shop: SuggestWorld) -> None:
    shop.pods("kube-system/coredns", {"k8s-app": "kube-dns"}, ports={"dns-tcp": 53})
    shop.seen(
        "shop/frontend", "kube-system/coredns", 53, protocol="UDP", connections=1, last=WEEK[0] + 61
    )
    assert shop.suggest("shop").holds
    assert shop.verdict("shop/frontend", "kube-system/coredns", 53, "UDP") == "allowed"
    assert shop.verdict("shop/frontend", "kube-system/coredns", 53, "TCP") == "denied"


def test_a_name_cannot_end_a_comment(shop: SuggestWorld) -> None:
    """Names come from DNS answers, which others write."""
    shop.seen("shop/backend", "203.0.113.10", 443, domain="x\n  egress: [{}]\n#")
    assert shop.suggest().holds
    assert shop.verdict("shop/backend", "203.0.113.11", 443) == "denied"


def test_a_name_of_a_past_workload_is_no_path(shop: SuggestWorld) -> None:
    """Rows may say anything; the name is also that of a file."""
    shop.rows.append(
        ObservedConversation(
            namespace="shop",
            workload="../../Etc/x",
            direction="egress",
            peer_kind="pod",
            peer_namespace="shop",
            peer_workload="backend",
            port=3000,
            first=WEEK[0],
            last=WEEK[1],
            labels={"app": "x"},
        )
    )
    shop.suggest()
    names = {each.policy.name for each in shop.suggested}
    assert "etc-x-egress" in names
    assert not any("/" in name for name in names)


def test_a_cluster_network_policy_names_domains(shop: SuggestWorld) -> None:
    """First what is accepted, then a denial of everything else."""
    shop.pods("kube-system/coredns", {"k8s-app": "kube-dns"})
    shop.pods("shop/stray", {"app": "stray"})
    shop.seen("shop/backend", "kube-system/coredns", 53, protocol="UDP")
    shop.seen("shop/frontend", "shop/backend", 3000)
    for number in range(20):
        first = WEEK[0] + number * 3600
        shop.seen(
            "shop/backend",
            f"151.101.{number}.7",
            443,
            domain="cdn.example.com",
            first=first,
            last=first + 60,
        )
    proof = shop.suggest("shop", kind="ClusterNetworkPolicy")
    assert proof.holds, proof
    assert "domainNames: [cdn.example.com]" in shop.text
    ask = shop.verdict
    assert ask("shop/backend", "151.101.9.9", 443, domain="cdn.example.com") == "allowed"
    assert ask("shop/backend", "151.101.9.9", 443, domain="evil.example.com") == "denied"
    assert ask("shop/frontend", "shop/backend", 3000) == "allowed"
    assert ask("shop/stray", "shop/backend", 3000) == "denied"


def test_a_cluster_network_policy_for_addresses_that_change(shop: SuggestWorld) -> None:
    for number in range(20):
        first = WEEK[0] + number * 3600
        shop.seen("shop/backend", f"151.101.{number}.7", 443, first=first, last=first + 60)
    assert shop.suggest("shop", kind="ClusterNetworkPolicy").holds
    assert shop.verdict("shop/backend", "151.101.9.9", 443) == "allowed"
    assert shop.verdict("shop/backend", "10.99.0.0", 443) == "denied"
    assert shop.verdict("shop/backend", "151.101.9.9", 80) == "denied"


def test_a_host_policy_for_units() -> None:
    """Domains in egress, networks, and other units; pods have other kinds of policies."""
    world = SuggestWorld()
    world.unit("apt-daily.service")
    world.unit("ssh.service")
    world.pods("shop/web", {"app": "web"})
    world.seen("systemd/apt-daily.service", "203.0.113.80", 443, domain="deb.example.org")
    world.seen("systemd/ssh.service", "203.0.113.10", 22, direction="ingress")
    proof = world.suggest(kind="HostPolicy")
    assert proof.holds, proof
    assert "kind: HostPolicy" in world.text
    assert 'units: ["apt-daily.service"]' in world.text
    assert "domainNames: [deb.example.org]" in world.text
    assert {each.policy.name for each in world.suggested} == {
        *("systemd-apt-daily.service-egress", "systemd-apt-daily.service-ingress"),
        *("systemd-ssh.service-egress", "systemd-ssh.service-ingress"),
    }
    ask = world.verdict
    apt = "systemd/apt-daily.service"
    assert ask(apt, "203.0.113.80", 443, domain="deb.example.org") == "allowed"
    assert ask(apt, "203.0.113.81", 443, domain="evil.example.org") == "denied"
    assert ask("systemd/ssh.service", "203.0.113.10", 22) == "denied"  # it opens nothing


def test_a_unit_with_a_glob_as_its_name_selects_only_itself() -> None:
    world = SuggestWorld()
    world.unit("getty@*.service")
    world.unit("getty@tty1.service")
    world.seen("systemd/getty@*.service", "203.0.113.80", 443)
    assert world.suggest(kind="HostPolicy").holds
    assert world.verdict("systemd/getty@tty1.service", "203.0.113.80", 1) == "undeclared"

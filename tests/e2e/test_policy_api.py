# SPDX-License-Identifier: Apache-2.0
"""Policies of the Kubernetes API: applied, changed, deleted or refused ones judge later traffic."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from podtally.export.flow_log import FlowRecord
from tests.apiserver.server import Fault
from tests.e2e.agents import Agent, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, counters
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import (
    DENIED,
    FLOWS,
    Static,
    begun,
    by,
    configuration,
    converse,
    events,
    eventually,
    records,
    talk,
    until_verdict,
    verdicts,
    wait_for,
)

UNHEARD = "podtally_policy_resources_unsynced"
KEPT = "podtally_policy_resources_kept"
UNJUDGED = "podtally_verdict_unknown_connections_total"
HEARD_SECONDS = 60.0  # until a CRD that is not there is believed not to be
CHANGED_SECONDS = 2.0
USERS = {"from": [{"podSelector": {"matchLabels": {"role": "user"}}}]}
TEAM = {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]}


@pytest.fixture
def shop(node: Node) -> Iterator[Cluster]:
    """``web`` and ``client`` of the namespace ``shop``."""
    with cluster(node) as made:
        made.pod("web", {"app": "web"}, http=8080)
        made.pod("client", {"role": "user"})
        yield made


def running(shop: Cluster, make_agent: MakeAgent, folder: Path, *flags: str) -> Agent:
    """An agent that has heard of all that the API has."""
    agent = make_agent(*shop.flags(folder), *flags)
    agent.start()
    agent.wait_ready()
    eventually(agent, lambda samples: value(samples, UNHEARD), 0, HEARD_SECONDS)
    return agent


def asks(shop: Cluster, port: int = 80, client: str = "client") -> partial[None]:
    return partial(converse, shop.node.pods[client], shop.node.pods["web"], port)


def test_policies_come_change_and_go(shop: Cluster, make_agent: MakeAgent, tmp_path: Path) -> None:
    agent, opening, took = running(shop, make_agent, tmp_path), counters(), dict[str, float]()
    of_client = {"workload": "client", "direction": "egress", "port": "80"}
    look, connect = begun(**of_client), asks(shop)
    with Scraper(agent.places.url).running() as scraper:
        connect()  # no one has CRDs of the admin tiers here
        eventually(agent, look, {"undeclared": 1})
        shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[])
        took["created"] = until_verdict(agent, connect, look, "denied")
        shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[USERS])
        took["changed"] = until_verdict(agent, connect, look, "allowed")
        shop.relabel("client", role="stray")
        took["pod label"] = until_verdict(agent, connect, look, "denied")
        shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[TEAM])
        connect()
        shop.namespace("shop", team="a")
        took["namespace label"] = until_verdict(agent, connect, look, "allowed")
        shop.api.delete("networkpolicies", "shop", "web")
        took["deleted"] = until_verdict(agent, connect, look, "undeclared")
        shop.node.quiet(0.5)
        samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    print({what: round(seconds, 2) for what, seconds in took.items()})
    assert max(took.values()) <= CHANGED_SECONDS
    of_web = {"workload": "web", "direction": "ingress", "port": "80"}
    assert verdicts(samples, **of_web) == verdicts(samples, **of_client)
    assert by("policy", samples, DENIED) == {"shop/web": verdicts(samples, **of_web)["denied"]}
    assert by("workload", samples, DENIED).keys() == {"web"}
    assert "Traceback" not in agent.said()


@pytest.mark.parametrize("whose", ["pod", "namespace"])
def test_labels_that_change_under_an_open_connection(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path, whose: str
) -> None:
    shop.policy(
        "shop/web",
        podSelector={"matchLabels": {"app": "web"}},
        ingress=[USERS if whose == "pod" else TEAM],
    )
    shop.namespace("shop", team="a")
    agent, opening, pods = running(shop, make_agent, tmp_path), counters(), shop.node.pods
    open_port = {"workload": "client", "port": "80"}
    look = begun(workload="client", port="81", direction="egress")
    with Scraper(agent.places.url, 0.05).running() as scraper:
        with talk(pods["client"], pods["web"], 80) as open_:
            open_.exchange()
            shop.node.quiet(0.3)
            before = verdicts(assert_books_close(agent, opening), FLOWS, **open_port)
            assert before.keys() == {"allowed"}
            if whose == "pod":
                shop.relabel("client", role="stray")
            else:
                shop.namespace("shop", team="b")
            until_verdict(agent, asks(shop, 81), look, "denied")
            assert verdicts(agent.samples(), FLOWS, **open_port) == before
            open_.exchange()
            shop.node.quiet(0.3)
            after = verdicts(assert_books_close(agent, opening), FLOWS, **open_port)
            assert after["allowed"] == before["allowed"]
            assert after["denied"] > before["allowed"] / 2
        shop.node.quiet(0.5)
        samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert verdicts(samples, **open_port) == {"allowed": 1}  # as it began
    assert by("port", samples, DENIED)["80"] == 1


def test_the_admin_tiers_are_synced_where_their_crds_are(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path
) -> None:
    shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[USERS])
    shop.api.install("clusternetworkpolicies")
    deny = {"name": "no-talk", "action": "Deny", "from": [{"namespaces": {}}]}
    spec = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}, "ingress": [deny]}
    shop.api.put("clusternetworkpolicies", {"metadata": {"name": "quiet"}, "spec": spec})
    agent = running(shop, make_agent, tmp_path)
    look = begun(workload="client", direction="egress", port="80")
    with Scraper(agent.places.url).running() as scraper:
        asks(shop)()
        policy = partial(by, "policy", name=DENIED)
        wanted = {"denied": 1}, {"ClusterNetworkPolicy/quiet": 1}
        samples = eventually(agent, lambda s: (look(s), policy(samples=s)), wanted)
        kinds = {"NetworkPolicy": 1, "ClusterNetworkPolicy": 1}
        assert by("kind", samples, "podtally_policies") == kinds
        shop.api.delete("clusternetworkpolicies", "", "quiet")
        until_verdict(agent, asks(shop), look, "allowed")
    assert scraper.faults == []


@pytest.mark.parametrize("resource", ["networkpolicies", "adminnetworkpolicies"])
def test_a_right_that_is_missing_makes_unknown_and_not_undeclared(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path, resource: str
) -> None:
    """RBAC is asked before anybody looks whether there is such a CRD."""
    refusal = Fault(403, "Forbidden", resource=resource, times=-1)
    shop.api.faults.errors.append(refusal)
    agent = make_agent(*shop.flags(tmp_path))
    agent.start()
    agent.wait_ready()
    eventually(agent, lambda samples: value(samples, UNHEARD), 1, HEARD_SECONDS)
    look = begun(workload="client", direction="egress", port="80")
    with Scraper(agent.places.url).running() as scraper:
        asks(shop)()
        both = {"unknown": 1}, {"unsynced": 2}  # both ends are here
        eventually(agent, lambda s: (look(s), by("cause", s, UNJUDGED)), both)
        agent.wait_said(f'resources: ["{resource}"]')
        shop.api.release()
        until_verdict(agent, asks(shop), look, "undeclared", HEARD_SECONDS)
        assert value(agent.samples(), UNHEARD) == 0
    assert scraper.faults == []


def test_before_the_api_is_synced_nothing_is_known(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """Pods named in the configuration: only the policies are unknown."""
    with cluster(node) as shop:
        web, client = node.routed_pod("web", 5), node.routed_pod("client", 6)
        shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[])
        shop.api.away()
        names = {
            web.netns: Static("shop", "web", {"app": "web"}),
            client.netns: Static("shop", "client", {}),
        }
        known = configuration(tmp_path / "podtally.yaml", names)
        flags = (*known, "--kubernetes", "on", *shop.flags(tmp_path), "--name-wait", "1")
        agent = make_agent(*flags)
        agent.start()
        agent.wait_ready()
        look = begun(workload="client", direction="egress", port="80")
        with Scraper(agent.places.url).running() as scraper:
            converse(client, web, 80)
            both = {"unknown": 1}, {"unsynced": 2}
            samples = eventually(agent, lambda s: (look(s), by("cause", s, UNJUDGED)), both)
            assert value(samples, UNHEARD) == 5
            shop.api.back()
            until_verdict(agent, asks(shop), look, "denied", HEARD_SECONDS)
            assert value(agent.samples(), UNHEARD) == 0
        assert scraper.faults == []


def test_a_start_while_the_api_is_away_judges_by_what_was_kept(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    with cluster(node) as shop:
        web, client = node.routed_pod("web", 5), node.routed_pod("client", 6)
        shop.policy("shop/web", podSelector={"matchLabels": {"app": "web"}}, ingress=[])
        names = {
            web.netns: Static("shop", "web", {"app": "web"}),
            client.netns: Static("shop", "client", {}),
        }
        known = configuration(tmp_path / "podtally.yaml", names)
        agent = make_agent(*known, "--kubernetes", "on", *shop.flags(tmp_path))
        look = begun(workload="client", direction="egress", port="80")
        with Scraper(agent.places.url).running() as scraper:
            agent.start()
            agent.wait_ready()
            eventually(agent, lambda samples: value(samples, UNHEARD), 0, HEARD_SECONDS)
            until_verdict(agent, asks(shop), look, "denied", HEARD_SECONDS)
            wait_until((agent.places.state_dir / "policies").exists)
            agent.kill()
            shop.api.away()
            agent.start()
            wait_until(lambda: agent.get("/livez")[0] == 200)
            eventually(agent, lambda samples: value(samples, KEPT), 5, HEARD_SECONDS)
            assert value(agent.samples(), UNHEARD) == 5
            status, words = agent.get("/readyz")
            assert status == 503
            assert "; in force are the policies of 0 min ago (" in words
            until_verdict(agent, asks(shop), look, "denied", HEARD_SECONDS)
            shop.api.back()
            eventually(agent, lambda samples: value(samples, UNHEARD), 0, HEARD_SECONDS)
            assert value(agent.samples(), KEPT) == 0
            agent.wait_ready()
        assert scraper.faults == []
        assert "Traceback" not in agent.said()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + HEARD_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- ends -------------------------------------------------------------------------------

SERVICE, FRONT = "10.99.200.1", 80
RULES = """
table ip podtally-test {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {service} tcp dport {front} dnat to {pod}:{port}
  }}
}}
"""


def translate(pod: Pod, port: int) -> None:
    if shutil.which("nft") is None:
        pytest.skip("no nft here (Debian package nftables)")
    rules = RULES.format(service=SERVICE, front=FRONT, pod=pod.ipv4, port=port)
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


@pytest.mark.parametrize(("port", "verdict"), [("http", "allowed"), (80, "denied")])
def test_service_traffic_is_judged_by_the_pod_and_its_port(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path, port: str | int, verdict: str
) -> None:
    """By a port's name, too; the Service's own port, 80, is not what policies speak of."""
    web, client = shop.node.pods["web"], shop.node.pods["client"]
    translate(web, 8080)
    shop.service("shop/front", FRONT, web, 8080, spec={"clusterIP": SERVICE})
    shop.policy(
        "shop/web",
        podSelector={"matchLabels": {"app": "web"}},
        ingress=[{**USERS, "ports": [{"port": port}]}],
    )
    log, flows = tmp_path / "events", tmp_path / "flows"
    agent = running(shop, make_agent, tmp_path, "--events", str(log), "--flow-log", str(flows))
    converse(client, web, 8080, (SERVICE, FRONT))
    front = {"workload": "client", "peer_kind": "service", "peer_workload": "front", "port": "80"}
    eventually(agent, begun(**front), {verdict: 1})
    back = {"workload": "web", "peer_workload": "client", "port": "8080"}
    samples = eventually(agent, begun(**back), {verdict: 1})
    line = wait_for(partial(records, flows), lambda r: r.endpoint.pod == "client")
    assert (line.verdict, line.peer.port) == (verdict, FRONT)
    assert line.peer.backend is not None
    assert line.peer.backend.port == 8080
    if verdict == "allowed":
        assert line.reason == "shop/web ingress[0]"
        assert by("policy", samples, DENIED) == {}
    else:
        assert "port 8080 is not 80" in line.reason
        result = wait_for(partial(events, log), lambda e: e.event == "denied")
        assert (result.endpoint.pod, result.peer.name, result.port) == ("web", "client", 8080)
        assert by("workload", samples, DENIED) == {"web": 1}


def test_a_pod_and_its_own_node_are_allowed_with_the_reason(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path
) -> None:
    web, flows = shop.node.pods["web"], tmp_path / "flows"
    shop.policy("shop/shut", policyTypes=["Ingress", "Egress"])
    agent = running(shop, make_agent, tmp_path, "--flow-log", str(flows))
    converse(None, web, 80)  # as the kubelet's probes do
    converse(web, None, 90, ("10.99.5.1", 90))
    converse(shop.node.pods["client"], web, 80)
    of_web = {"workload": "web"}
    eventually(agent, begun(**of_web, peer_kind="host", port="80"), {"allowed": 1})
    eventually(agent, begun(**of_web, peer_kind="host", port="90"), {"allowed": 1})
    eventually(agent, begun(**of_web, peer_kind="pod"), {"denied": 1})
    own_talk = {"egress": 1, "ingress": 1}
    eventually(agent, lambda s: by("direction", s, DENIED), own_talk)
    for port in (80, 90):
        line = wait_for(partial(records, flows), partial(is_with_the_node, port))
        assert "is the node of shop/web" in line.reason


def is_with_the_node(port: int, line: FlowRecord) -> bool:
    return line.peer.kind == "host" and port in (line.endpoint.port, line.peer.port)

"""Closed books under mixed load: every interface and direction, to the byte, by either hook."""

import time

import pytest

from tests.e2e.agents import Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.traffic import mixed

LOAD_SECONDS = 5.0
MEGABYTE = 1e6


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_books_close_after_mixed_load(three_pods: Node, make_agent: MakeAgent, attach: str) -> None:
    agent = make_agent("--attach", attach)
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        time.sleep(LOAD_SECONDS)
    three_pods.quiet()
    samples = assert_books_close(agent, opening)
    assert scraper.faults == []
    assert scraper.scrapes > LOAD_SECONDS
    for name in "abc":
        for direction in ("egress", "ingress"):
            labels = {"interface": f"ptl-{name}", "direction": direction}
            for account in ("flows", "other"):
                assert value(samples, "podtally_books_bytes_total", account=account, **labels) > 0
    for protocol in ("tcp", "udp", "icmp", "icmpv6", "sctp"):
        assert value(samples, "podtally_flow_bytes_total", protocol=protocol) > 0, protocol
    assert value(samples, "podtally_flow_bytes_total", protocol="tcp") > 100 * MEGABYTE


def test_pods_and_books_and_flows_tell_the_same_sums(
    three_pods: Node, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with mixed(three_pods):
        time.sleep(2)
    three_pods.quiet()
    samples = assert_books_close(agent, opening)
    for name, pod in three_pods.pods.items():
        for direction in ("egress", "ingress"):
            of_book = {"interface": f"ptl-{name}", "direction": direction}
            books = value(samples, "podtally_books_bytes_total", **of_book)
            of_pod = {"namespace": "netns", "pod": pod.netns, "direction": direction}
            assert value(samples, "podtally_pod_bytes_total", **of_pod) == books
            flows = value(samples, "podtally_books_bytes_total", account="flows", **of_book)
            of_flows = {"namespace": "netns", "workload": pod.netns, "direction": direction}
            assert value(samples, "podtally_flow_bytes_total", **of_flows) == flows

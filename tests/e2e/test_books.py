# SPDX-License-Identifier: Apache-2.0
"""Closed books under mixed load: every interface and direction, to the byte, by either hook."""

import itertools
import struct
import time
from socket import AF_PACKET, SOCK_RAW

import pytest

from tests.e2e.agents import Samples, Scraper, assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, pod_socket
from tests.e2e.policy_world import eventually
from tests.e2e.traffic import mixed
from tests.kernel import packets

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
    assert_books_close(agent, opening)

    def lacking(samples: Samples) -> dict[tuple[str, str], tuple[float, float]]:
        """Return by how much the pods' and the flows' bytes are less than the books'."""
        found = {}
        for name, pod in three_pods.pods.items():
            for direction in ("egress", "ingress"):
                of_book = {"interface": f"ptl-{name}", "direction": direction}
                of_pod = {"namespace": "netns", "pod": pod.netns, "direction": direction}
                of_flows = {"namespace": "netns", "workload": pod.netns, "direction": direction}
                flows = {"account": "flows", **of_book}
                found[name, direction] = (
                    value(samples, "podtally_books_bytes_total", **of_book)
                    - value(samples, "podtally_pod_bytes_total", **of_pod),
                    value(samples, "podtally_books_bytes_total", **flows)
                    - value(samples, "podtally_flow_bytes_total", **of_flows),
                )
        return found

    nothing = dict.fromkeys(itertools.product("abc", ("egress", "ingress")), (0.0, 0.0))
    eventually(agent, lacking, nothing)  # a connection's bytes may wait for its peer's name


@pytest.mark.parametrize("tags", [1, 2])
def test_books_close_over_tags_that_the_kernel_takes_out(
    three_pods: Node, make_agent: MakeAgent, tags: int
) -> None:
    """A veth counts a tag that comes in the data; at the tc hook nothing is left of it."""
    frame = packets.ipv4(packets.UDP, packets.ports(more=23))
    for _ in range(tags):
        frame = packets.vlan(frame)
    frame = b"\xff" * 6 + struct.pack("!6B", 2, 0, 0, 0, 0, 1) + frame[12:]
    agent = make_agent()
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with pod_socket(three_pods.pods["a"], AF_PACKET, SOCK_RAW) as raw:
        for _ in range(23):
            raw.sendto(frame, ("eth0", 0))
    three_pods.quiet()
    samples = assert_books_close(agent, opening)
    sent = {"interface": "ptl-a", "direction": "egress"}
    assert value(samples, "podtally_books_bytes_total", account="other", **sent) >= 4 * 23

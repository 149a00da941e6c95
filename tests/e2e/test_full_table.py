# SPDX-License-Identifier: Apache-2.0
"""Far more flows than slots: what does not fit is booked as overflow, and the sums stay exact."""

from tests.e2e.agents import assert_books_close, gaps, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, counters
from tests.e2e.traffic import flood

PACKETS, RATE = 120_000, 50_000


def test_what_finds_no_slot_is_overflow(three_pods: Node, make_agent: MakeAgent) -> None:
    a, b = three_pods.pods["a"], three_pods.pods["b"]
    agent = make_agent("--max-flows", "1024", "--epoch", "0.5")
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    assert value(agent.samples(), "podtally_table_slots") == 2048
    flood(a, b, PACKETS, RATE)
    closing = three_pods.quiet()
    samples = assert_books_close(agent, opening)
    assert closing == counters()
    assert not any(gaps(samples).values())
    for interface, direction in (("ptl-a", "egress"), ("ptl-b", "ingress")):
        labels = {"interface": interface, "direction": direction}
        overflow = value(samples, "podtally_books_bytes_total", account="overflow", **labels)
        assert overflow > closing[interface, direction] / 4, labels
    assert value(samples, "podtally_table_overflow_packets_total") > PACKETS / 4
    for pod in three_pods.pods.values():
        for direction in ("egress", "ingress"):
            key = (pod.link, direction)
            counted = value(samples, "podtally_pod_bytes_total", pod=pod.netns, direction=direction)
            assert counted == closing[key] - opening[key]

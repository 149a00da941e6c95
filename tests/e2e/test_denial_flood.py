# SPDX-License-Identifier: Apache-2.0
"""A flood of denied connections under a policy of thousands of rules: epochs go on, everything is reported."""

from pathlib import Path

from tests.e2e.agents import assert_books_close, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, counters
from tests.e2e.policy_world import Static, configuration, events, outside, records, wait_for
from tests.e2e.traffic import flood

RULES, RATE, SECONDS = 8_000, 3_000, 10
FLOWS = 20_000  # different ones, see tests.e2e.traffic
LATE_SECONDS = 15.0  # all epochs together, on a busy machine; 0.3 s on one that is not
ISOLATED = "denied by default: shop/many selects it and no egress rule allows this"
NEAREST = f"{ISOLATED}; nearest shop/many egress[0]: "


def policy() -> str:
    rules = ", ".join(
        f"{{to: [{{ipBlock: {{cidr: 10.{i >> 8}.{i & 255}.0/24}}}}], ports: [{{port: {i + 1}}}]}}"
        for i in range(RULES)
    )
    return (
        "{kind: NetworkPolicy, apiVersion: networking.k8s.io/v1, metadata: {name: many, "
        f"namespace: shop}}, spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{rules}]}}}}"
    )


def test_a_flood_of_denials_under_thousands_of_rules_stalls_no_epoch(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    stray, world = node.routed_pod("stray", 5), outside(node)
    (tmp_path / "policy.yaml").write_text(policy())
    known = configuration(tmp_path / "podtally.yaml", {stray.netns: Static("shop", "stray", {})})
    flows = tmp_path / "flows"
    flows.touch()
    logs = ("--events", str(tmp_path / "events"), "--flow-log", str(flows))
    agent = make_agent(*known, "--policies", str(tmp_path / "policy.yaml"), *logs)
    opening = counters()
    agent.start()
    agent.wait_ready()
    flood(stray, world, RATE * SECONDS, RATE)
    samples = assert_books_close(agent, opening)
    denied = value(samples, "podtally_policy_denied_total")
    assert denied >= FLOWS - value(samples, "podtally_books_bytes_total", account="overflow")
    node.remove("stray")  # all its connections are over at once
    wait_for(lambda: [flows.read_bytes().count(b"\n")], lambda count: count >= denied, 60.0)
    samples = agent.samples()
    lateness = value(samples, "podtally_epoch_lateness_seconds_sum")
    assert lateness < LATE_SECONDS, value(samples, "podtally_epoch_duration_seconds_sum")
    lines = events(tmp_path / "events")
    assert any(NEAREST in line.reason for line in lines)
    reasons = [line.reason for line in records(flows)]
    assert {reason.partition("; nearest")[0] for reason in reasons} == {ISOLATED}
    assert any(NEAREST in reason for reason in reasons)  # all that the budget is for

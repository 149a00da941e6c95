# SPDX-License-Identifier: Apache-2.0
"""Policy files that cannot be read: what the real agent keeps in force, doubts and skips."""

import time
from pathlib import Path

from tests.e2e.agents import Agent, Samples, Scraper, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.policy_world import (
    begun,
    by,
    converse,
    eventually,
    records,
    wait_for,
    write,
)
from tests.e2e.test_policy_files import FRONTEND, flags, policies, running, shop, wait_for_policy

__all__ = ["flags", "policies", "shop"]


def test_a_file_that_becomes_unreadable_stays_in_force_as_it_was(
    shop: Node, flags: tuple[str, ...], policies: Path, make_agent: MakeAgent
) -> None:
    agent = running(make_agent, *flags)
    frontend = policies / "frontend.yaml"
    with Scraper(agent.places.url).running() as scraper:
        wait_for_policy(agent, shop, "denied")
        for broken in ("kind: [", FRONTEND.format(role="stray").replace("podSel", "podSal")):
            write(frontend, broken)
            eventually(agent, stale_and_unreadable, (1, 0))
            assert str(frontend) in agent.said()
            wait_for_policy(agent, shop, "denied")
        started_again(agent)
        eventually(agent, stale_and_unreadable, (1, 0))
        assert (
            agent.get("/readyz")[1]
            == f"ok\nwarning: an earlier version is in force of {frontend}\n"
        )
        wait_for_policy(agent, shop, "denied")
        write(frontend, FRONTEND.format(role="stray"))
        eventually(agent, stale_and_unreadable, (0, 0))
        wait_for_policy(agent, shop, "allowed")
        assert kinds(agent.samples()) == {"NetworkPolicy": 2}
        frontend.unlink()
        wait_for_policy(agent, shop, "undeclared")
        assert kinds(agent.samples()) == {"NetworkPolicy": 1}
    assert scraper.faults == []
    assert "Traceback" not in agent.said()


def test_what_never_was_readable_is_unknown_until_it_is_fixed(
    shop: Node, flags: tuple[str, ...], policies: Path, make_agent: MakeAgent, tmp_path: Path
) -> None:
    agent = running(make_agent, *flags)
    pods, fresh = shop.pods, policies / "fresh.yaml"
    with Scraper(agent.places.url).running() as scraper:
        converse(pods["user"], pods["frontend"], 80)
        good = FRONTEND.format(role="stray").replace("allow-frontend", "fresh")
        write(fresh, good.replace("from:", "fron:"))
        eventually(agent, stale_and_unreadable, (0, 1))
        wait_for_policy(agent, shop, "unknown")
        samples = agent.samples()
        (cause,) = by("cause", samples, "podtally_verdict_unknown_connections_total")
        assert cause == "unreadable"
        line = wait_for(lambda: records(tmp_path / "flows"), lambda r: r.verdict == "unknown")
        assert "shop/fresh cannot be read" in line.reason
        assert "fron" in line.reason
        # What others allow is allowed, whatever is unreadable beside them.
        converse(pods["user"], pods["frontend"], 82)
        user = {"workload": "frontend", "peer_workload": "user"}
        eventually(agent, begun(**user), {"allowed": 2})
        write(fresh, good)
        eventually(agent, stale_and_unreadable, (0, 0))
        wait_for_policy(agent, shop, "allowed")
        fresh.unlink()
        wait_for_policy(agent, shop, "denied")
    assert scraper.faults == []


def test_stray_files_neither_hide_a_denial_nor_put_others_in_doubt(
    shop: Node, flags: tuple[str, ...], policies: Path, make_agent: MakeAgent
) -> None:
    agent = running(make_agent, *flags)
    stray, frontend = shop.pods["stray"], shop.pods["frontend"]
    look = begun(workload="frontend", peer_workload="stray", port="81")
    wait_for_policy(agent, shop, "denied")
    write(policies / "values.yaml", "replicaCount: 2\nimage: {tag: one}\n")
    write(policies / "template.yaml", "{{- if .Values.np }}\nkind: NetworkPolicy\n{{- end }}\n")
    write(
        policies / "broken.yaml", FRONTEND.format(role="stray").replace("shop", "pay") + "  - [\n"
    )
    eventually(agent, stale_and_unreadable, (0, 2))
    before = look(agent.samples())
    for _ in range(3):
        converse(stray, frontend, 81)
    eventually(agent, look, {"denied": before["denied"] + 3})
    said = agent.said()
    assert "values.yaml:1: skipped, not a Kubernetes object: apiVersion is missing" in said
    assert "a template, not an object" in said


def started_again(agent: Agent) -> None:
    """Kill the agent when it has kept its policies, and start another."""
    end = time.monotonic() + 60.0
    while not (agent.places.state_dir / "policies").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    agent.kill()
    agent.start()
    agent.wait_ready()


def stale_and_unreadable(samples: Samples) -> tuple[int, int]:
    names = ("podtally_policy_files_stale", "podtally_policies_unreadable")
    stale, unreadable = (int(value(samples, name)) for name in names)
    return stale, unreadable


def kinds(samples: Samples) -> dict[str, int]:
    return by("kind", samples, "podtally_policies")

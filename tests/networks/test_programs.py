# SPDX-License-Identifier: Apache-2.0
"""Programs of others on the hooks: ours are first, or uncounted traffic is reported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from podtally.kernel import bpf
from tests.e2e.agents import environment, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.policy_world import eventually
from tests.kernel.links_support import ifindex
from tests.networks import programs
from tests.networks.lab import BACK, lab
from tests.networks.shapes import Cilium, PointToPoint, SharedClsact
from tests.networks.test_shapes import started
from tests.networks.traffic import converse
from tests.networks.uplinks import Netkit

FOREIGN = "podtally_foreign_programs"


def test_redirection_past_the_host_end_is_reported(make_agent: MakeAgent, tmp_path: Path) -> None:
    """Cilium's eBPF host routing: what the pod receives meets no hook of the host's end."""
    with lab(Cilium(helper=programs.REDIRECT_PEER)) as made:
        web, client = made.pod("web", app="web"), made.pod("client")
        made.service("front", web)
        converse(client.netns, web.netns, (web.addresses[4], BACK), BACK)
        agent = make_agent(*made.flags(tmp_path))
        started(agent)
        look = lambda s: value(s, FOREIGN, hook="bypassed", interface=web.link)  # noqa: E731
        samples = eventually(agent, look, 1)
        assert value(samples, FOREIGN, hook="bypassed", interface=client.link) == 0
        assert f"bytes went to or from the pod behind {web.link} without passing it" in agent.said()
        done = subprocess.run(
            [sys.executable, "-m", "podtally", "doctor", "--interfaces", "lxc*"],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert f"bypass of {web.link}" in done.stdout, done.stdout + done.stderr
        assert f"bypass of {client.link}" not in done.stdout


def test_redirection_at_the_pods_end_is_reported(make_agent: MakeAgent, tmp_path: Path) -> None:
    """Cilium with netkit: a program on the pod's end sends on what the pod sent."""
    with lab(Netkit()) as made:
        web, client = made.pod("web", app="web"), made.pod("client")
        routes = {web.addresses[4]: ifindex(web.link)}
        code = programs.director(routes, programs.REDIRECT_NEIGH)
        link = programs.attach_last(code, ifindex(client.link), programs.NETKIT_PEER)
        made.stack.callback(os.close, link)
        converse(client.netns, web.netns, (web.addresses[4], BACK), BACK)
        agent = make_agent(*made.flags(tmp_path))
        started(agent)
        look = lambda s: value(s, FOREIGN, hook="bypassed", interface=client.link)  # noqa: E731
        samples = eventually(agent, look, 1)
        assert value(samples, FOREIGN, hook="bypassed", interface=web.link) == 0
        assert f"from the pod behind {client.link} without passing it" in agent.said()


@pytest.mark.parametrize("first", [True, False], ids=["first", "behind"])
def test_clsact_where_another_has_the_first_priority(
    make_agent: MakeAgent, tmp_path: Path, first: bool
) -> None:
    """Behind it, nothing is counted, and that is reported; in front, detaching takes only ours."""
    flags = ("--attach", "clsact", *(["--attach-first"] if first else []))
    with lab(SharedClsact(flags=flags)) as made:
        web, client = made.pod("web", app="web"), made.pod("client")
        agent = make_agent(*made.flags(tmp_path))
        started(agent)
        converse(client.netns, web.netns, (web.addresses[4], BACK), BACK)
        if not first:
            eventually(agent, lambda s: value(s, FOREIGN), 4)
            assert value(agent.samples(), "podtally_flow_bytes_total") == 0
            return
        eventually(agent, lambda s: value(s, "podtally_connections_total"), 2)
        assert value(agent.samples(), FOREIGN) == 0
        agent.stop()
        agent.detach()
        show = ["tc", "filter", "show", "dev", web.link, "ingress"]
        left = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        assert "podtally" not in left
        assert left.count(" handle 0x1 ") == 1


def test_a_program_that_comes_first_later_is_reported(
    make_agent: MakeAgent, tmp_path: Path
) -> None:
    with lab(PointToPoint()) as made:
        web = made.pod("web", app="web")
        agent = make_agent(*made.flags(tmp_path))
        started(agent)
        index = ifindex(web.link)
        with (
            bpf.owned(programs.load(programs.director({}, 0))) as program,
            bpf.owned(bpf.tcx_attach(program, index, bpf.TCX_INGRESS)),
        ):
            eventually(agent, lambda s: value(s, FOREIGN, interface=web.link), 1)

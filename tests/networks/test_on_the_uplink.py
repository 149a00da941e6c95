# SPDX-License-Identifier: Apache-2.0
"""Pods without a link of their own: macvlan and ipvlan devices on an uplink that is watched."""

import json
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e import kube_objects as objects
from tests.e2e.agents import Agent
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import ip
from tests.e2e.policy_cluster import pod_process
from tests.e2e.policy_world import FLOWS, SIZE, TIMES, by, eventually
from tests.e2e.test_host import cgroup
from tests.networks.lab import UPLINK, WORLD, Lab, lab
from tests.networks.modules import require
from tests.networks.test_shapes import balance, started
from tests.networks.traffic import DATAGRAM, socket_in
from tests.networks.uplinks import Watched

ADDRESS, PORT = "203.0.113.50", 7777
DATAGRAMS = TIMES * (SIZE + 42)  # bytes of the frames


class Kind(NamedTuple):
    module: str
    mode: str

    @property
    def is_routed(self) -> bool:
        """Say whether the pod has no neighbours but the node."""
        return self.mode.startswith("l3")


KINDS = [Kind("macvlan", mode) for mode in ("bridge", "private", "vepa", "passthru")]
KINDS += [Kind("ipvlan", mode) for mode in ("l2", "l3", "l3s")]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_pod_on_the_uplink(kind: Kind, make_agent: MakeAgent, tmp_path: Path) -> None:
    """Its address is not the host's: it is no host-network pod, and its policies count."""
    require(kind.module)
    container, uid = "c0ffee" * 10 + "beef", str(uuid.uuid4())
    with lab(Watched(interfaces=UPLINK)) as made, ExitStack() as stack:
        netns = plugged(made, kind)
        path = stack.enter_context(cgroup(f"kubepods/besteffort/pod{uid}/{container}"))
        stack.enter_context(pod_process(path, netns))
        who = objects.Identity("alone", uid, container, (ADDRESS,))
        item = objects.running(objects.admitted(who), who)
        item["metadata"] |= {"namespace": "shop", "labels": {}}
        made.api.put("pods", item)
        made.policy("shut", podSelector={}, policyTypes=["Egress"], egress=[])
        agent = make_agent(*made.flags(tmp_path))
        opening = made.quiet()
        started(agent)
        send(made, netns, path)
        denied(agent, DATAGRAMS)
        agent.kill()
        send(made, netns, path)
        started(agent)
        send(made, netns, path)
        look = lambda s: by("workload", s, FLOWS, port=str(PORT))  # noqa: E731
        samples = eventually(agent, look, {"alone": 3 * DATAGRAMS})
        # Before it had the policies again, it had no verdict.
        assert by("verdict", samples, FLOWS, port=str(PORT))["denied"] >= 2 * DATAGRAMS
        ip("-n", netns, "link", "del", "eth0")
        made.api.delete("pods", "shop", "alone")
        samples = eventually(agent, lambda s: balance(s, made, opening), {})
        assert by("workload", samples, FLOWS, port=str(PORT)) == {"alone": 3 * DATAGRAMS}


def plugged(made: Lab, kind: Kind) -> str:
    netns = made.netns("alone")
    ip("link", "add", "sub0", "link", UPLINK, "type", kind.module, "mode", kind.mode)
    ip("link", "set", "sub0", "netns", netns, "name", "eth0")
    ip("-n", netns, "link", "set", "eth0", "up")
    if not kind.is_routed:
        ip("-n", netns, "addr", "add", f"{ADDRESS}/24", "dev", "eth0")
        return netns
    ip("-n", netns, "addr", "add", f"{ADDRESS}/32", "dev", "eth0")
    ip("-n", netns, "route", "add", "default", "dev", "eth0")
    (link,) = json.loads(ip("-j", "link", "show", UPLINK))
    neighbour = ("lladdr", link["address"], "nud", "permanent", "dev", "eth0")
    ip("-n", made.world, "neigh", "add", ADDRESS, *neighbour)
    return netns


def send(made: Lab, netns: str, path: Path) -> None:
    """Send datagrams from the pod, by a process of it."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"s.bind(('', {PORT}));"
        f"[s.sendto(bytes({SIZE}), ('{WORLD[4]}', {PORT})) for _ in range({TIMES})]"
    )
    with socket_in(made.world, 4, DATAGRAM) as there:
        there.bind((WORLD[4], PORT))
        join = f'echo $$ > "{path}/cgroup.procs"; exec "$@"'
        enter = ("nsenter", f"--net=/run/netns/{netns}", sys.executable, "-Sc", script)
        subprocess.run(["sh", "-c", join, "sh", *enter], check=True)
        for _ in range(TIMES):
            assert len(there.recv(2000)) == SIZE


def denied(agent: Agent, total: int) -> None:
    look = lambda s: by("verdict", s, FLOWS, workload="alone", port=str(PORT))  # noqa: E731
    eventually(agent, look, {"denied": total})

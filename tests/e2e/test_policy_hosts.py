# SPDX-License-Identifier: Apache-2.0
"""HostPolicies on the host's own interface: a unit that serves, and what the host itself sends."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.e2e.agents import Agent, Scraper, gaps
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod, ip
from tests.e2e.policy_world import (
    DENIED,
    SIZE,
    begun,
    by,
    events,
    eventually,
    no_other_names,
    receive,
    series_of,
    stream,
    until_verdict,
    wait_for,
    write,
)
from tests.e2e.test_host import HERE, THERE, UPLINK, cgroup, run, uplink

ELSEWHERE = "203.0.113.3"  # the world has this address as well
SSH = "ptl-ssh.service"
POLICIES = """
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {{name: ssh-from-the-office}}
spec:
  units: [ptl-ssh.service]
  ingress:
  - from: [{{ipBlock: {{cidr: {office}/32}}}}]
    ports: [{{protocol: TCP, port: 22}}]
---
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {{name: no-mail}}
spec:
  host: true
  policyTypes: [Egress]
  egress:
  - ports: [{{protocol: TCP, port: 26, endPort: 65535}}]
"""
SERVE = """
import socket, sys
s = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    c, _ = s.accept()
    with c:
        while data := c.recv(1 << 16):
            c.sendall(data)
"""
ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as s:
    s.sendall(bytes({SIZE}))
    s.shutdown(socket.SHUT_WR)
    while s.recv(1 << 16):
        pass
"""


@contextmanager
def serving(where: Path, port: int) -> Iterator[None]:
    """A server of the host, in a cgroup; it ends with that."""
    with run(where, SERVE, str(port)) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def ask_host(world: Pod, source: str, port: int) -> None:
    with stream(world) as asking:
        asking.settimeout(10)
        asking.bind((source, 0))
        asking.connect((HERE, port))
        asking.sendall(bytes(SIZE))
        receive(asking, SIZE)


def ask_world(where: Path, world: Pod, port: int) -> None:
    with stream(world) as listener:
        listener.bind((THERE, port))
        listener.listen()
        listener.settimeout(10)
        with run(where, ASK, THERE, str(port)) as client:
            answering, _ = listener.accept()
            with answering:
                answering.settimeout(10)
                receive(answering, SIZE)
                answering.sendall(bytes(SIZE))
            assert client.wait(timeout=20) == 0


def test_units_and_the_host_are_judged_by_host_policies(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    policies, told_in = tmp_path / "policies.yaml", tmp_path / "events"
    write(policies, POLICIES.format(office=THERE))
    with ExitStack() as stack:
        world = stack.enter_context(uplink(node))
        ip("-n", world.netns, "addr", "add", f"{ELSEWHERE}/24", "dev", "eth0")
        unit = stack.enter_context(cgroup(f"system.slice/{SSH}"))
        plain = stack.enter_context(cgroup("plain"))  # which has no unit
        stack.enter_context(serving(unit, 22))
        stack.enter_context(serving(unit, 2222))
        names = no_other_names(tmp_path)
        agent: Agent = make_agent(
            *("--interfaces", f"ptl-*,{UPLINK}", "--kubernetes", "off", *names),
            *("--policies", str(policies), "--events", str(told_in)),
        )
        agent.start()
        agent.wait_ready()
        with Scraper(agent.places.url).running() as scraper:
            ask_host(world, THERE, 22)
            ask_host(world, ELSEWHERE, 22)
            ask_host(world, THERE, 2222)
            ask_world(plain, world, 443)
            ask_world(plain, world, 25)
            ssh = {"namespace": "systemd", "workload": SSH, "direction": "ingress"}
            eventually(agent, begun(port="22", **ssh), {"allowed": 1, "denied": 1})
            eventually(agent, begun(port="2222", **ssh), {"denied": 1})
            host = {"namespace": "host", "direction": "egress"}
            eventually(agent, begun(port="443", **host), {"allowed": 1})
            samples = eventually(agent, begun(port="25", **host), {"denied": 1})
            assert by("policy", samples, DENIED) == {
                "HostPolicy/ssh-from-the-office": 2,
                "HostPolicy/no-mail": 1,
            }, series_of(samples, DENIED)
            line = wait_for(lambda: events(told_in), lambda e: (e.event, e.port) == ("denied", 22))
            assert (line.peer.kind, line.peer.address) == ("external", ELSEWHERE)
            assert f"{ELSEWHERE} is not in {THERE}" in line.reason
            line = wait_for(lambda: events(told_in), lambda e: (e.event, e.port) == ("denied", 25))
            assert (line.direction, line.endpoint.workload) == ("egress", "host")
            write(policies, POLICIES.format(office=ELSEWHERE))
            from_elsewhere, look = partial(ask_host, world, ELSEWHERE, 22), begun(**ssh)
            until_verdict(agent, from_elsewhere, look, "allowed")
            until_verdict(agent, partial(ask_host, world, THERE, 22), look, "denied")
            node.quiet(0.5)
            assert not any(gaps(agent.samples()).values())
        assert scraper.faults == []
        assert "Traceback" not in agent.said()

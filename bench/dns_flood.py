# SPDX-License-Identifier: Apache-2.0
"""One pod floods with DNS questions while others ask a real resolver, behind a real agent."""

import json
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import dns.message

from bench.agent import cpu_seconds
from bench.attack import compile_spray, ended
from bench.report import progress
from bench.shares import AGENT_SHARES, group
from tests.e2e.agents import Agent, Places, Samples, value
from tests.e2e.conftest import free_port
from tests.e2e.dns_servers import unbound
from tests.e2e.pods import Node, Pod, ip, node, pod_socket
from tests.e2e.policy_world import Static, configuration

PIN_DIR = Path("/sys/fs/bpf/ptl-dns-flood")
SPRAYS = 4  # processes that flood
FLOODED = "198.19.0.1"  # dropped by the node
NAMES = 20  # of each pod
INTERVAL = 0.05  # seconds between a pod's questions
ANSWER_SECONDS = 20.0
SETTLE_SECONDS = 12.0  # more than a question waits for its answer
LATE_SECONDS = "1.0"  # a bound of the histogram


class FloodRun(NamedTuple):
    sent: int
    lost: int
    lost_of_others: int
    asked: int  # that the clients saw answered
    answered: int  # of them, as the agent counts
    names: int
    known: int
    epochs: int
    late: int
    cores: float


def run(pods: int, seconds: float, rate: int) -> FloodRun:
    with node() as made, tempfile.TemporaryDirectory(prefix="podtally-dns-") as scratch:
        return _run(made, Path(scratch), pods, seconds, rate)


def _run(made: Node, folder: Path, count: int, seconds: float, rate: int) -> FloodRun:
    spray = compile_spray(folder)
    attacker, resolver = made.routed_pod("flooder", 1), made.routed_pod("dns", 2)
    ip("route", "add", "blackhole", "198.19.0.0/16")
    pods = {f"web{i}": made.routed_pod(f"web{i}", 3 + i) for i in range(count)}
    names = {name: [f"n{i}.{name}.example.com" for i in range(NAMES)] for name in pods}
    addresses = {
        each: (f"203.0.113.{1 + i}", 60) for some in names.values() for i, each in enumerate(some)
    }
    known = {pod.netns: Static("shop", name, {}) for name, pod in pods.items()}
    known[attacker.netns] = Static("shop", "flooder", {})
    places = Places(PIN_DIR, folder / "state", free_port())
    flags = configuration(folder / "podtally.yaml", known)
    agent = Agent(
        places,
        (*flags, "--resolvers", resolver.ipv4, "--history", "off"),
        log=folder / "agent.log",
    )
    with (
        unbound(resolver, folder, addresses),
        group("agent", AGENT_SHARES) as favour,
        ended(agent, PIN_DIR),
    ):
        agent.start()
        agent.wait_ready()
        assert agent.process is not None
        favour(agent.process.pid)
        before, cpu = agent.samples(), cpu_seconds(agent.process.pid)
        progress(f"one pod sends {rate:,} questions a second for {seconds:.0f} s")
        clients = [_Client(pod, resolver.ipv4, names[name]) for name, pod in pods.items()]
        with _running(clients), _flooding(spray, attacker, seconds, rate) as sent:
            time.sleep(seconds)
        cores = (cpu_seconds(agent.process.pid) - cpu) / seconds
        time.sleep(SETTLE_SECONDS)
        after = agent.samples()
        found = sum(_knows(agent, name, each) for name in pods for each in names[name])

    def grown(name: str, **labels: str) -> int:
        return int(value(after, name, **labels) - value(before, name, **labels))

    lost = grown("podtally_dns_messages_total", kind="lost", workload="flooder")
    lateness = "podtally_epoch_lateness_seconds"
    epochs = grown(f"{lateness}_count")
    return FloodRun(
        sent=sum(sent),
        lost=lost,
        lost_of_others=grown("podtally_dns_messages_total", kind="lost") - lost,
        asked=sum(each.answers for each in clients),
        answered=_answered(after) - _answered(before),
        names=count * NAMES,
        known=found,
        epochs=epochs,
        late=epochs - grown(f"{lateness}_bucket", le=LATE_SECONDS),
        cores=cores,
    )


def _answered(samples: Samples) -> int:
    return int(
        sum(
            count
            for (name, labels), count in samples.items()
            if name == "podtally_dns_queries_total"
            and dict(labels)["workload"] != "flooder"
            and dict(labels)["rcode"] == "NOERROR"
        )
    )


def _knows(agent: Agent, pod: str, name: str) -> bool:
    """Return whether the agent knows that a pod got an address for a name."""
    url = f"{agent.places.url}/api/v1/names?{urllib.parse.urlencode({'name': name})}"
    with urllib.request.urlopen(url, timeout=60) as reply:
        answers = json.load(reply)["answers"]
    return any(each["pod"] == pod and each["trusted"] for each in answers)


class _Client:
    """Asks for names in turn until it is stopped; each question until it is answered."""

    def __init__(self, pod: Pod, resolver: str, names: list[str]) -> None:
        self._pod, self._resolver, self._names = pod, resolver, names
        self.answers = 0

    def ask(self, stop: threading.Event) -> None:
        turn = 0
        with pod_socket(self._pod, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(ANSWER_SECONDS)
            asking.connect((self._resolver, 53))
            while not stop.wait(INTERVAL):
                asking.send(dns.message.make_query(self._names[turn % NAMES], "A").to_wire())
                asking.recv(4096)
                turn, self.answers = turn + 1, self.answers + 1


@contextmanager
def _running(clients: list[_Client]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=each.ask, args=(stop,)) for each in clients]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        stop.set()
        for each in threads:
            each.join()


@contextmanager
def _flooding(spray: Path, attacker: Pod, seconds: float, rate: int) -> Iterator[list[int]]:
    """Flood meanwhile; yields a list that gets the numbers of messages at the end."""
    (link,) = json.loads(ip("-j", "link", "show", attacker.link))
    words = (link["address"], "dns", attacker.ipv4, FLOODED, 200, 1, rate / SPRAYS, seconds)
    command = ["ip", "netns", "exec", attacker.netns, str(spray), "eth0", *map(str, words)]
    sent: list[int] = []
    with ExitStack() as running:
        processes = []
        for _ in range(SPRAYS):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            running.enter_context(process)
            running.callback(process.kill)
            processes.append(process)
        yield sent
        sent += [int(each.communicate(timeout=seconds + 30)[0]) for each in processes]

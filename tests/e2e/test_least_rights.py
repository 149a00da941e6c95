# SPDX-License-Identifier: Apache-2.0
"""The agent with the capabilities that the manifests and the unit grant it, and no other."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from podtally.kernel.capabilities import BIT_OF, RUNNING
from tests.e2e.agents import Agent, Places, Samples, assert_books_close, value
from tests.e2e.kube_node import cgroup2_mount
from tests.e2e.pods import Node, Pod
from tests.tracefs import tracefs

ROOT = Path(__file__).parents[2]
NOBODY = "65534"
PINGS = 23
NAMED_SECONDS = 60.0


@dataclass
class LeastAgent(Agent):
    """Started as root with some capabilities only in the bounding set, as a runtime starts it."""

    granted: tuple[str, ...] = ()

    def command(self, *flags: str) -> list[str]:
        setpriv, *rest = super().command(*flags)
        allowed = "".join(f",+{name.removeprefix('CAP_').lower()}" for name in self.granted)
        return [setpriv, "--bounding-set", f"-all{allowed}", "--no-new-privs", *rest]


def manifest_capabilities() -> tuple[str, ...]:
    text = (ROOT / "deploy/base/daemonset.yaml").read_text()
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    capabilities = container["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    return tuple(f"CAP_{name}" for name in capabilities["add"])


def unit_capabilities() -> tuple[str, ...]:
    lines = (ROOT / "systemd/podtally.service").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith("CapabilityBoundingSet="))
    return tuple(line.partition("=")[2].split())


GRANTS = {"manifests": manifest_capabilities, "unit": unit_capabilities}


@pytest.fixture(params=GRANTS)
def granted(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return GRANTS[request.param]()


@dataclass
class Stranger:
    """A process of another user in a pod, by which alone that pod is named."""

    name: str
    logs: Path
    cgroups: Path
    number: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uid(self) -> str:
        return f"6a1d0c6e-8f0b-4d3c-9c53-{self.number:012d}"

    @property
    def cgroup(self) -> Path:
        return self.cgroups / "kubepods" / f"pod{self.uid}" / (f"{self.number:x}" * 64)[:64]

    def start(self, pod: Pod) -> None:
        (self.logs / f"shop_{self.name}_{self.uid}").mkdir(parents=True)
        self.cgroup.mkdir(parents=True)
        script = (
            f'echo $$ >"$0/cgroup.procs" && exec nsenter --net=/run/netns/{pod.netns}'
            f" setpriv --pdeathsig KILL --reuid {NOBODY} --clear-groups sleep 600"
        )
        self.process = subprocess.Popen(["sh", "-c", script, str(self.cgroup)])

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for path in (self.cgroup, self.cgroup.parent, self.cgroup.parent.parent):
            with suppress(OSError):  # never made, or another's pods are in it
                path.rmdir()


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[tuple[Stranger, Stranger]]:
    try:
        cgroups = cgroup2_mount()
    except AssertionError as error:
        pytest.skip(str(error))
    made = tuple(Stranger(f"web-{i}", tmp_path / "pods", cgroups, 23 + i) for i in (0, 1))
    yield made[0], made[1]
    for each in made:
        each.end()


@pytest.fixture
def agent(
    places: Places, tmp_path: Path, granted: tuple[str, ...], strangers: tuple[Stranger, Stranger]
) -> Iterator[LeastAgent]:
    flags = ("--pod-logs", str(strangers[0].logs), "--cri-socket", "off", "--kubernetes", "off")
    made = LeastAgent(places, flags, log=tmp_path / "agent.log", granted=granted)
    made.log.touch()
    yield made
    made.end()


@pytest.fixture
def reports() -> Iterator[None]:
    with tracefs():
        yield


def test_it_counts_names_and_takes_over(
    reports: None, node: Node, agent: LeastAgent, strangers: tuple[Stranger, Stranger]
) -> None:
    first, later = strangers
    first.start(node.bridged_pod("a"))
    node.bridged_pod("b")
    opening = node.quiet()
    agent.start()
    agent.wait_ready()
    assert agent.process is not None
    assert effective(agent.process.pid) == set(agent.granted) & RUNNING  # PERFMON is given up
    later.start(node.bridged_pod("c"))  # while it runs, with what it has kept
    ping(node.pods["a"], node.pods["b"])
    ping(node.pods["c"], node.pods["a"])
    samples = named(agent, first.name, later.name)
    for each in (first, later):
        pings = value(samples, "podtally_pod_packets_total", pod=each.name, direction="egress")
        assert pings >= PINGS, agent.said()
    assert_books_close(agent, opening)
    assert agent.stop() == 0
    agent.start("--max-flows", "1000")  # programs of another size: compiled, and put in place
    agent.wait_ready()
    assert "loaded the kernel programs" in agent.said().rpartition("stopped")[2]
    ping(node.pods["a"], node.pods["b"])
    assert_books_close(agent, opening)
    refused = ("ermitted", "denied", "retransmissions are not counted")
    assert not any(word in agent.said() for word in refused), agent.said()


@pytest.mark.parametrize("missing", ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"])
def test_none_of_the_first_three_can_be_left_out(agent: LeastAgent, missing: str) -> None:
    assert missing in agent.granted
    agent.granted = tuple(name for name in agent.granted if name != missing)
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(timeout=20) == 2
    assert missing in agent.said()


def test_without_ptrace_a_pod_of_another_user_has_no_name(
    node: Node, agent: LeastAgent, strangers: tuple[Stranger, Stranger]
) -> None:
    agent.granted = tuple(name for name in agent.granted if name != "CAP_SYS_PTRACE")
    pod = node.bridged_pod("a")
    strangers[0].start(pod)
    node.bridged_pod("b")
    agent.start("--name-wait", "1")
    agent.wait_ready()
    ping(pod, node.pods["b"])
    samples = named(agent, pod.netns)  # its namespace's name is all that is known
    assert value(samples, "podtally_pod_packets_total", pod=strangers[0].name) == 0


def ping(source: Pod, target: Pod) -> None:
    words = ("ping", "-q", "-c", str(PINGS), "-i", "0.01", "-w", "10", target.ipv4)
    namespace = f"--net=/run/netns/{source.netns}"
    done = subprocess.run(["nsenter", namespace, *words], capture_output=True, check=False)
    assert done.returncode == 0, done


def named(agent: Agent, *pods: str) -> Samples:
    """Wait until all of them have sent their pings under their names."""
    end = time.monotonic() + NAMED_SECONDS
    while True:
        samples = agent.samples()
        sent = [value(samples, "podtally_pod_packets_total", pod=each) for each in pods]
        if all(packets >= 2 * PINGS for packets in sent):
            return samples
        assert time.monotonic() < end, f"{sent}\n{agent.get('/metrics')[1]}\n{agent.said()}"
        time.sleep(0.1)


def effective(pid: int) -> set[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (x for x in status.splitlines() if x.startswith("CapEff:"))
    bits = int(line.split()[1], 16)
    return {name for name, bit in BIT_OF.items() if bits >> bit & 1}


if shutil.which("setpriv") is None:
    pytest.skip("no setpriv (util-linux)", allow_module_level=True)

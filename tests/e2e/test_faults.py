# SPDX-License-Identifier: Apache-2.0
"""Things removed, shared or replaced under an agent: one line says so, and it keeps working."""

import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from podtally.ledger.checkpoint.checkpoint import Checkpoint
from tests.e2e.agents import Agent, assert_books_close, environment, value
from tests.e2e.conftest import MakeAgent, free_port
from tests.e2e.pods import Node
from tests.kernel.links_support import sh

BOOKS_BYTES = "podtally_books_bytes_total"
FEW = 4  # descriptors


@pytest.fixture
def node_with_a(node: Node) -> Node:
    node.routed_pod("a", 1)
    return node


def wait(until: Callable[[], bool], agent: Agent, seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, agent.said()
        time.sleep(0.1)


@pytest.mark.parametrize("pin", ["maps/books", "maps/about", "progs/from_pod"])
def test_a_missing_pin_is_no_crash_loop(node_with_a: Node, agent: Agent, pin: str) -> None:
    agent.start()
    agent.wait_ready()
    agent.kill()
    (agent.places.pin_dir / pin).unlink()
    opening = node_with_a.quiet()
    agent.start()
    agent.wait_ready()
    sh("ping -q -c 3 -i 0.05 10.99.1.2")
    node_with_a.quiet()
    wait(lambda: value(agent.samples(), BOOKS_BYTES, account="flows") > 0, agent)
    assert "Traceback" not in agent.said()
    if pin == "progs/from_pod":  # the maps are all there: nothing is lost
        assert "lost" not in agent.said()
        assert opening
    else:
        assert "is lost" in agent.said()
    agent.kill()
    (agent.places.pin_dir / pin).unlink()
    assert "detached" in agent.detach()
    assert not agent.places.pin_dir.exists()


@pytest.mark.parametrize("left", [120, FEW])
def test_idle_clients_take_no_descriptors_from_others(
    node_with_a: Node, agent: Agent, left: int
) -> None:
    """With few left, the agent itself may lack them: it says so, and does not spin."""
    agent.start("--epoch", "1")
    agent.wait_ready()
    assert agent.process is not None
    pid = agent.process.pid
    most = len(os.listdir(f"/proc/{pid}/fd")) + left
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as idle:
        for _ in range(120):
            idle.enter_context(socket.create_connection(("127.0.0.1", agent.places.port), 20))
        wait(lambda: agent.get("/readyz")[0] != 0, agent)
        before = cpu_seconds(pid)
        for _ in range(5):
            time.sleep(1)
            status, words = agent.get("/readyz")
            is_ready = (status, words) == (200, "ok\n")
            assert is_ready or (left == FEW and "Too many open files" in words), (status, words)
        assert cpu_seconds(pid) - before < 1.0
    assert "Traceback" not in agent.said()
    assert ("cannot accept a client" in agent.said()) == (left == FEW)


def cpu_seconds(pid: int) -> float:
    """The scheduler's sum: what it used, however long that took."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_pins_that_vanish_under_a_running_agent(node_with_a: Node, agent: Agent) -> None:
    agent.start()
    agent.wait_ready()
    pins = agent.places.pin_dir
    programs = names_in(pins / "progs")
    for kind in ("maps", "progs", "links"):
        shutil.rmtree(pins / kind)
    agent.wait_said("programs were removed from ptl-a")
    agent.wait_said("pins were removed from outside; restored")
    wait(lambda: len(names_in(pins / "links")) == 2, agent)
    assert names_in(pins / "progs") == programs
    node_with_a.quiet()
    before = value(agent.samples(), BOOKS_BYTES, interface="ptl-a")
    sh("ping -q -c 23 -i 0.01 10.99.1.2")
    wait(lambda: value(agent.samples(), BOOKS_BYTES, interface="ptl-a") >= before + 46 * 98, agent)
    assert value(agent.samples(), "podtally_books_gap_bytes") == 0
    agent.kill()
    agent.start()  # and the next start takes over
    agent.wait_ready()
    assert agent.said().count("loaded the kernel programs") == 1


def test_a_state_directory_that_is_removed_is_made_again(node_with_a: Node, agent: Agent) -> None:
    opening = node_with_a.quiet()
    agent.start()
    agent.wait_ready()
    shutil.rmtree(agent.places.state_dir)
    agent.wait_said("the state directory was removed; it is made again")
    agent.wait_ready()
    sh("ping -q -c 3 -i 0.05 10.99.1.2")
    node_with_a.quiet()
    assert_books_close(agent, opening)
    agent.kill()
    agent.start()
    agent.wait_ready()
    node_with_a.quiet()
    assert_books_close(agent, opening)


def test_two_agents_cannot_share_a_state_directory(node_with_a: Node, agent: Agent) -> None:
    agent.start()
    agent.wait_ready()
    places = agent.places
    other = places.pin_dir.with_name(f"{places.pin_dir.name}-other")
    for command in (
        ["run", "--listen", f"127.0.0.1:{free_port()}"],
        ["detach"],
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "podtally", *command, "--pin-dir", str(other)),
                *("--state-dir", str(places.state_dir)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
        assert done.returncode == 2
        assert "is in use by another podtally" in done.stderr
        assert "--state-dir" in done.stderr
    if other.exists():
        shutil.rmtree(other)
    assert len(list(places.pin_dir.iterdir())) > 0


def test_a_checkpoint_of_other_programs_is_put_aside(node_with_a: Node, agent: Agent) -> None:
    opening = node_with_a.quiet()
    agent.start()
    agent.wait_ready()
    assert agent.stop() == 0
    checkpoint = Checkpoint(agent.places.state_dir)
    read = checkpoint.read()
    assert read is not None
    text = checkpoint.path.read_bytes()
    foreign = read[0].generation.encode()
    changed = text[:-4].replace(foreign, foreign[::-1])
    checkpoint.path.write_bytes(sealed(changed))
    agent.start()
    agent.wait_ready()
    assert "it belongs to other kernel programs" in agent.said()
    assert (agent.places.state_dir / "checkpoint.unusable-1").exists()
    sh("ping -q -c 3 -i 0.05 10.99.1.2")
    node_with_a.quiet()
    assert opening
    assert value(agent.samples(), "podtally_books_gap_bytes") == 0


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def test_links_in_the_place_of_files_are_not_followed(
    node_with_a: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    log = tmp_path / "flows.jsonl"
    log.symlink_to(victim)
    agent = make_agent("--flow-log", str(log))
    agent.start()
    assert ended(agent) == 2
    assert "symbolic link" in agent.said()
    agent.flags = ()
    state = agent.places.state_dir
    state.mkdir(exist_ok=True)
    os.symlink(victim, state / "checkpoint.new")
    agent.start()
    assert ended(agent) == 2
    assert "cannot write the checkpoint" in agent.said()
    assert victim.read_text() == "precious\n"


def ended(agent: Agent) -> int:
    """The exit code of one that does not go on."""
    assert agent.process is not None
    process, agent.process = agent.process, None
    return process.wait(60)


def test_a_refused_configuration_leaves_nothing(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """Threads, descriptors and programs are as before, whatever it was refused for."""
    for number, name in enumerate("ab", 1):
        node.routed_pod(name, number)
    file = tmp_path / "podtally.yaml"
    file.write_text("epoch: 0.2\ninterfaces: ptl-a\n")
    agent = make_agent()
    # Without the flags that would win over the file
    full = agent.command
    agent.command = lambda *flags: [  # type: ignore[method-assign]
        each for each in [*full(*flags), "--config", str(file)] if each not in LEFT_OUT
    ]
    agent.start()
    agent.wait_ready()
    assert agent.process is not None
    process = Path("/proc", str(agent.process.pid))
    links = agent.places.pin_dir / "links"

    def files() -> list[str]:
        return [kind(os.readlink(each)) for each in (process / "fd").iterdir()]

    def held() -> tuple[list[str], list[str], list[str]]:
        names = []
        for each in (process / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a client's, which has ended
                names.append((each / "comm").read_text())
        return (
            sorted(names),
            sorted(each for each in files() if each != MAP),
            sorted(each.name for each in links.iterdir()),
        )

    file.write_text("epoch: 0.3\ninterfaces: ptl-a\n")
    reload(agent, "watching 1 interface")  # from now on nothing is new
    agent.wait_ready()
    before = None
    while before != (before := held()):  # what the first reload let go is let go by now
        time.sleep(1)
    maps = files().count(MAP)
    text = "epoch: 0.2\ninterfaces: ptl-*\n"
    for more in (
        "events: /dev/null/x\n",
        "kubeconfig: /dev/null/x\n",
        "web_config_file: /dev/null/x\n",
        "flow_log: /dev/null\n",
        "epoch: soon\n",
    ):
        file.write_text(text + more if "epoch" not in more else more)
        reload(agent, "stays in force")
        agent.wait_ready()
        settles(held, before, agent)
    for _ in range(3):  # those that are taken leave nothing behind, either
        for which in ("ptl-*", "ptl-a"):
            file.write_text(f"epoch: 0.3\ninterfaces: {which}\n")
            reload(agent, "watching")
            agent.wait_ready()
    settles(held, before, agent)
    assert files().count(MAP) <= maps
    assert "Traceback" not in agent.said()


def settles(held: Callable[[], object], before: object, agent: Agent) -> None:
    end = time.monotonic() + 10
    while (now := held()) != before:
        assert time.monotonic() < end, f"{before}\n{now}\n{agent.said()}"
        time.sleep(0.1)


def kind(file: str) -> str:
    """What a descriptor is, without the number of its inode."""
    return file.split(":[", maxsplit=1)[0]


MAP = "anon_inode:bpf-map"
LEFT_OUT = ("--interfaces", "ptl-*", "--epoch", "0.1", "--flow-labels")


def reload(agent: Agent, words: str) -> None:
    assert agent.process is not None
    agent.forget_said()
    agent.process.send_signal(1)
    agent.wait_said(words)

# SPDX-License-Identifier: Apache-2.0
"""What an operator can get wrong, and what can be wrong with a host: one clear line, no counts lost."""

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.agents import (
    Agent,
    Places,
    Samples,
    Scraper,
    assert_books_close,
    booked,
    environment,
    gaps,
    value,
)
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, ip
from tests.e2e.policy_world import eventually
from tests.e2e.traffic import mixed

WRONG_USE = 2


def refused(agent: Agent, *flags: str, before: tuple[str, ...] = ()) -> str:
    """Run the agent in vain; returns the one line that it ends with."""
    done = subprocess.run(
        [*before, *agent.command(*flags)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == WRONG_USE, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("podtally: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


# -- the wrong user ---------------------------------------------------------------------


def test_not_root(agent: Agent, places: Places) -> None:
    places.state_dir.mkdir(mode=0o777)
    places.state_dir.chmod(0o777)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    assert "root" in refused(agent, before=nobody)


@pytest.mark.parametrize(
    ("taken", "missing"),
    [
        ("-net_admin", ["CAP_NET_ADMIN"]),
        ("-sys_admin,-bpf,-perfmon", ["CAP_BPF", "CAP_PERFMON"]),
    ],
)
def test_a_capability_is_missing(agent: Agent, taken: str, missing: list[str]) -> None:
    # a program that root starts gets what is in the bounding set
    line = refused(agent, before=("setpriv", "--bounding-set", taken, "--inh-caps", taken))
    for each in missing:
        assert f"{each} (" in line
    assert "run as root" in line


# -- the wrong place --------------------------------------------------------------------


def test_the_pin_directory_is_on_no_bpffs(agent: Agent, tmp_path: Path) -> None:
    line = refused(agent, "--pin-dir", str(tmp_path / "pins"))
    assert f"{tmp_path / 'pins'} is not on a bpffs" in line
    assert "mount -t bpf" in line


def test_the_state_directory_cannot_be_made(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(agent, "--state-dir", str(tmp_path / "file" / "state"))
    assert str(tmp_path / "file" / "state") in line


def test_compiling_without_kernel_headers(agent: Agent, node: Node) -> None:
    hide = 'mount -t tmpfs none /lib/modules; mount -t tmpfs none /usr/src; exec "$@"'
    line = refused(agent, "--compile", before=("unshare", "--mount", "sh", "-c", hide, "sh"))
    assert "no kernel headers found" in line


def test_programs_that_do_not_compile_are_reported_with_cause_and_log(
    agent: Agent, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headers").mkdir()  # of nothing
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "headers"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    line = refused(agent, "--compile")
    assert "it does not compile: " in line
    log = re.search(r"the whole log is (\S+),", line)
    assert log is not None, line
    assert "kconfig.h" in Path(log.group(1)).read_text()


def test_an_agent_that_compiles_for_itself(agent: Agent, node: Node) -> None:
    agent.start("--compile")
    agent.wait_ready()
    assert "compiling the kernel programs" in agent.said()


def test_another_agent_holds_the_pin_directory(
    agent: Agent, make_agent: MakeAgent, node: Node, tmp_path: Path
) -> None:
    agent.start()
    agent.wait_ready()
    other = make_agent()
    line = refused(other, "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "other"))
    assert f"{agent.places.pin_dir} is in use by another podtally" in line
    assert agent.get("/readyz")[0] == 200


def test_the_port_is_in_use(agent: Agent, node: Node, places: Places) -> None:
    with socket.create_server(("127.0.0.1", places.port)):
        line = refused(agent)
    assert f"cannot listen on 127.0.0.1:{places.port}: Address already in use" in line
    assert not places.pin_dir.exists()  # known before anything was attached


# -- the wrong words --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lisen: 127.0.0.1:9775", "lisen"),
        ("epoch: fast", ":1: epoch: 'fast' is not a duration"),
        ("epoch: -1", "epoch: "),
        ("max_flows: 0", "max_flows: "),
        ("endpoints: [{name: web, netns: a, colour: red}]", "colour"),
        ("endpoints: [{name: web}]", "endpoint 'web' needs one of netns, interface and address"),
        (
            "networks: {office: 203.0.113.1/24}",
            ":1: networks.office: 203.0.113.1/24 has host bits set",
        ),
        ("listen: [", "podtally.yaml:2: not YAML"),
        ("attach: xdp", ":1: attach: invalid value 'xdp'"),
    ],
)
def test_the_configuration_is_wrong(agent: Agent, tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text(text)
    line = refused(agent, "--config", str(file))
    assert str(file) in line
    assert expected in line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--epoch", "0"), "--epoch"),
        (("--max-flows", "-1"), "--max-flows"),
        (("--listen", "localhost"), "'localhost' is not ADDR:PORT"),
        (("--config", "/nowhere/podtally.yaml"), "/nowhere/podtally.yaml"),
    ],
)
def test_a_flag_is_wrong(agent: Agent, flags: tuple[str, ...], expected: str) -> None:
    assert expected in refused(agent, *flags)


# -- a host that changes under our hands ------------------------------------------------


def test_interfaces_that_vanish_while_they_are_attached(node: Node, agent: Agent) -> None:
    ip("netns", "add", f"{node.prefix}-there")
    try:
        agent.start()
        agent.wait_ready()
        for number in range(46):
            link = ("ptl-gone", "type", "veth", "peer", "name", f"p{number}")
            ip("link", "add", *link, "netns", f"{node.prefix}-there")
            ip("link", "del", "ptl-gone")
        time.sleep(0.5)
        assert value(agent.samples(), "podtally_attach_errors_total") == 0
        assert agent.get("/readyz")[0] == 200
        assert agent.stop() == 0
    finally:
        ip("netns", "del", f"{node.prefix}-there")
    assert "Traceback" not in agent.said()
    assert "ERROR" not in agent.said()
    assert list((agent.places.pin_dir / "links").iterdir()) == []


@pytest.fixture
def small_disk(places: Places) -> Iterator[Path]:
    places.state_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", places.state_dir], check=True)
    try:
        yield places.state_dir
    finally:
        subprocess.run(["umount", "--lazy", places.state_dir], check=True)


def fill(disk: Path) -> Path:
    stuffing = disk / "stuffing"
    with stuffing.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return stuffing
    raise AssertionError("the disk cannot be filled")


@pytest.mark.parametrize("killed", [False, True])
def test_the_disk_under_the_state_directory_is_full(
    three_pods: Node, agent: Agent, small_disk: Path, killed: bool
) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with Scraper(agent.places.url).running() as scraper, mixed(three_pods):
        time.sleep(0.5)
        stuffing = fill(small_disk)
        time.sleep(1)
        status, words = agent.get("/readyz")
        assert (status, "No space left" in words) == (503, True)
        assert agent.get("/livez")[0] == 200
        assert value(agent.samples(), "podtally_checkpoint_errors_total") > 1
        assert agent.said().count("cannot write the checkpoint") == 1
        if killed:
            agent.kill()
        time.sleep(0.5)
        stuffing.unlink()
        if killed:
            agent.start()
        agent.wait_ready()
    three_pods.quiet()
    assert_books_close(agent, opening)
    assert scraper.faults == []


def test_started_on_a_full_disk(three_pods: Node, agent: Agent, small_disk: Path) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    with mixed(three_pods):
        time.sleep(0.5)
        agent.kill()
        stuffing = fill(small_disk)
        agent.start()
        # It ends if there is something to book, and waits for room if the kill left nothing.
        agent.wait_said("nothing is lost")
        agent.end()
        stuffing.unlink()
        agent.start()
        agent.wait_ready()
    three_pods.quiet()
    assert_books_close(agent, opening)


@pytest.mark.parametrize("spoil", ["cut short", "changed"])
def test_a_corrupt_checkpoint_is_put_aside(three_pods: Node, agent: Agent, spoil: str) -> None:
    agent.start()
    agent.wait_ready()
    with mixed(three_pods):
        time.sleep(0.3)
    three_pods.quiet(0.5)
    assert agent.stop() == 0
    file = agent.places.state_dir / "checkpoint"
    whole = file.read_bytes()
    spoiled = {
        "cut short": whole[: len(whole) // 2],
        "changed": whole[:-23] + bytes([whole[-23] ^ 1]) + whole[-22:],
    }
    file.write_bytes(spoiled[spoil])
    a, b = three_pods.pods["a"], three_pods.pods["b"]
    before = three_pods.quiet(0.5)
    ip("netns", "exec", a.netns, "ping", "-c", "3", "-i", "0.01", b.ipv4)  # unobserved
    closing = three_pods.quiet(0.5)
    agent.start()
    agent.wait_ready()
    (aside,) = agent.places.state_dir.glob("checkpoint.unusable-*")
    assert aside.read_bytes() == spoiled[spoil]
    assert f"it is now {aside}" in agent.said()
    keys = ("ptl-a", "egress"), ("ptl-b", "ingress")
    moved = {key: closing[key] - before[key] for key in keys}
    assert all(moved.values())

    def kernel_rows_are_booked(samples: Samples) -> bool:
        books = booked(samples)
        return all(books.get(key, 0) >= moved[key] for key in keys)

    samples = eventually(agent, kernel_rows_are_booked, True)
    assert set(gaps(samples).values()) == {0}


# -- the end ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_counting_goes_on(three_pods: Node, agent: Agent, number: int) -> None:
    opening = three_pods.quiet()
    agent.start()
    agent.wait_ready()
    assert agent.stop(number) == 0
    assert "the kernel programs stay attached and keep counting" in agent.said()
    a, b = three_pods.pods["a"], three_pods.pods["b"]
    ip("netns", "exec", a.netns, "ping", "-c", "3", "-i", "0.01", b.ipv4)
    agent.start()
    agent.wait_ready()
    three_pods.quiet(0.5)
    assert_books_close(agent, opening)


def test_a_signal_while_it_compiles_ends_it(node: Node, agent: Agent) -> None:
    agent.start("--compile")
    agent.wait_said("compiling")
    started = time.monotonic()
    code = agent.stop()
    assert time.monotonic() - started < 60
    assert code == 0
    assert "Traceback" not in agent.said()


@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_detach_leaves_nothing_and_a_later_run_goes_on(
    three_pods: Node, make_agent: MakeAgent, attach: str
) -> None:
    agent = make_agent("--attach", attach)
    before = qdiscs()
    agent.start()
    agent.wait_ready()
    scraper = Scraper(agent.places.url)
    with scraper.running():
        with mixed(three_pods):
            time.sleep(0.5)
        three_pods.quiet(0.5)
        time.sleep(0.3)
        assert agent.stop() == 0
        a, b = three_pods.pods["a"], three_pods.pods["b"]
        counted = booked(scraper.last)
        ip("netns", "exec", a.netns, "ping", "-c", "3", "-i", "0.01", b.ipv4)
        agent.detach()
        assert not agent.places.pin_dir.exists()
        assert qdiscs() == before
        assert hooks("ptl-a") == ""
        agent.start()
        agent.wait_ready()
        # what was counted between the stop and the detaching is in the books, too
        whole = counted["ptl-a", "egress"] + 3 * 98
        look = lambda samples: booked(samples).get(("ptl-a", "egress"), 0) >= whole  # noqa: E731
        samples = eventually(agent, look, True)
    assert scraper.faults == []
    assert set(gaps(samples).values()) == {0}


def qdiscs() -> str:
    return subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout


def hooks(link: str) -> str:
    """Programs on the hooks of a link, as bpftool sees them; "" where it is not installed."""
    if shutil.which("bpftool") is None:
        return ""
    done = subprocess.run(
        ["bpftool", "net", "show", "dev", link], capture_output=True, text=True, check=True
    )
    return "".join(line for line in done.stdout.splitlines() if line.startswith(link))

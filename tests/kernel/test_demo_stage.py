# SPDX-License-Identifier: Apache-2.0
"""The demo's network and traffic on the real kernel, without the agent."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podtally.demo import network, stage
from podtally.demo.address import DemoAddress, listen
from podtally.demo.processes import Children, Process
from podtally.demo.servers import ROLES
from podtally.demo.topology import HOSTS, NODE, PODS, STATE_DIR, USER
from podtally.errors import PodtallyError
from podtally.web.client import get_plain

PAGE_SECONDS = 60.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def built() -> Iterator[None]:
    with stage.exclusive():
        stage.clear()
        try:
            stage.build()
            yield
        finally:
            stage.clear()


def received(pod_interface: str) -> int:
    """Bytes the host's end of a veth has received, in the node's namespace."""
    text = subprocess.run(
        ["ip", "-n", NODE, "-s", "-j", "link", "show", pod_interface],
        capture_output=True,
        check=True,
    ).stdout
    return int(json.loads(text)[0]["stats64"]["rx"]["bytes"])


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PAGE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def start(children: Children, role: str, log: Path) -> Process:
    netns = next(host.netns for host in HOSTS if host.name == role)
    with log.open("ab") as stream:
        return children.python(netns, ["podtally.demo.servers", role], stream)


@pytest.mark.usefixtures("built")
def test_every_pod_has_traffic_and_nothing_is_left_behind(tmp_path: Path) -> None:
    log = tmp_path / "traffic.log"
    with Children() as children:
        roles = [start(children, role, log) for role in ROLES]
        # More than a handful of handshakes: pages and rows go by.
        assert until(lambda: all(received(pod.interface) > 1000 for pod in PODS)), log.read_text()
        assert [role.poll() for role in roles] == [None] * len(ROLES)
        assert log.read_text() == ""
        pids = [role.pid for role in roles]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    stage.clear()
    assert network.namespaces() == []
    assert not STATE_DIR.exists()


@pytest.mark.usefixtures("built")
def test_a_killed_demos_servers_and_namespaces_are_cleared(tmp_path: Path) -> None:
    """Another process in a demo namespace is left alone, ours are ended."""
    curious = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{USER.netns}", "sleep", "60"], start_new_session=True
    )
    ours = start(Children(), "outside", tmp_path / "log")
    try:
        assert until(lambda: ours.pid in network.processes("podtally-demo-outside"))
        stage.clear()
        assert ours.wait(1) != 0
        assert curious.poll() is None
        assert network.namespaces() == []
        stage.build()
    finally:
        for process in (curious, ours):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("built")
def test_the_kernel_ends_a_child_of_a_killed_demo(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path;"
        "from podtally.demo.processes import Children;"
        "log = Path('/dev/null').open('wb');"
        "print(Children().python('podtally-demo-outside', ['podtally.demo.servers', 'outside'],"
        " log).pid, flush=True); time.sleep(60)"
    )
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    with demo:
        pid = int(demo.stdout.readline())
        assert until(lambda: b"servers" in Path(f"/proc/{pid}/cmdline").read_bytes())
        time.sleep(0.3)  # nsenter and setpriv have become Python by then
        demo.kill()
    assert until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_demo_is_refused() -> None:
    with (
        stage.exclusive(),
        pytest.raises(PodtallyError, match="another podtally demo is running"),
        stage.exclusive(),
    ):
        pytest.fail("two demos at once")


@pytest.mark.usefixtures("built")
def test_the_relay_leads_from_the_host_into_the_nodes_namespace(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("up 1\n")
    with Children() as children, listen(DemoAddress("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        children.python(NODE, ["podtally.demo.relay", str(fd), "9775"], sys.stderr.fileno(), [fd])
        with pytest.raises((http.client.HTTPException, OSError)):
            get_plain("127.0.0.1", port, "/metrics")
        web = ["http.server", "9775", "--directory", str(tmp_path)]
        children.python(NODE, web, subprocess.DEVNULL)
        assert until(lambda: _answers(port))
        assert get_plain("127.0.0.1", port, "/metrics") == (200, b"up 1\n")


def _answers(port: int) -> bool:
    try:
        return get_plain("127.0.0.1", port, "/metrics")[0] == 200
    except (http.client.HTTPException, OSError):
        return False


def test_a_port_in_use_gives_way_to_a_free_one() -> None:
    with listen(DemoAddress("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with listen(DemoAddress("127.0.0.1", port)) as second:
            assert second.getsockname()[1] not in (0, port)


def test_an_address_the_host_has_not_is_named() -> None:
    with pytest.raises(PodtallyError, match=r"203\.0\.113\.23:9775"):
        listen(DemoAddress("203.0.113.23", 9775))

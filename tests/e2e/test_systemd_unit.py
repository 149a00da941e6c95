# SPDX-License-Identifier: Apache-2.0
"""systemd/podtally.service under real systemd: its sandbox does not keep it from its work."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.kernel.capabilities import BIT_OF, RUNNING
from tests.e2e.agents import parse, value
from tests.e2e.systemd_host import Host, systemd_host

PINGS = 23
START_SECONDS = 660.0
RESTART_SECONDS = 300.0  # after RestartSec; taking over is quick
# The unit's own would make the test last longer; that they are long enough is tested elsewhere.
SHORT = "WatchdogSec=5\nRestartSec=1\n"


@pytest.fixture
def host(bpffs: Path, tmp_path: Path) -> Iterator[Host]:
    with systemd_host(tmp_path, SHORT) as made:
        made.run("ip", "link", "set", "lo", "up")
        add_pod(made, 1)
        yield made


def add_pod(host: Host, number: int) -> None:
    for words in (
        f"netns add p{number}",
        f"link add v{number} type veth peer name eth0 netns p{number}",
        f"addr add 10.99.{number}.1/24 dev v{number}",
        f"link set v{number} up",
        f"-n p{number} addr add 10.99.{number}.2/24 dev eth0",
        f"-n p{number} link set eth0 up",
    ):
        host.run("ip", *words.split())


def ping(host: Host, number: int) -> None:
    host.run("ping", "-q", "-c", str(PINGS), "-i", "0.01", "-w", "10", f"10.99.{number}.2")


def sent(host: Host, number: int) -> float:
    samples = parse(host.metrics())
    assert value(samples, "podtally_books_gap_bytes") == 0
    return value(samples, "podtally_pod_packets_total", pod=f"p{number}", direction="egress")


def counted(host: Host, number: int, packets: int) -> None:
    """Epochs are a second long; a few packets more are the neighbours' discovery."""
    host.run("sleep", "3")
    assert packets <= sent(host, number) < packets + PINGS, host.log()


def main_pid(host: Host) -> str:
    return host.state()["MainPID"]


def test_it_starts_reloads_and_is_restarted_without_losing_a_count(host: Host) -> None:
    host.run("systemctl", "start", "podtally")  # returns when READY=1 was said
    state = host.wait(START_SECONDS, ActiveState="active", SubState="running", NRestarts="0")
    assert "watching 1 interface" in state["StatusText"]
    assert kept(host) == RUNNING
    ping(host, 1)
    counted(host, 1, PINGS)

    host.run("systemctl", "reload", "podtally")
    assert host.wait(10, ActiveState="active")["MainPID"] == state["MainPID"]

    add_pod(host, 2)  # with what it has kept, and in its mount namespace
    host.run("sleep", "2")
    ping(host, 2)
    counted(host, 2, PINGS)

    host.run("sh", "-c", f"kill -KILL {main_pid(host)}")
    ping(host, 1)
    host.wait(RESTART_SECONDS, SubState="running", NRestarts="1")
    counted(host, 1, 2 * PINGS)

    host.run("sh", "-c", f"kill -STOP {main_pid(host)}")  # no epoch turns: the watchdog ends it
    host.wait(RESTART_SECONDS, SubState="running", NRestarts="2")
    ping(host, 1)
    counted(host, 1, 3 * PINGS)

    host.run("systemctl", "stop", "podtally")
    state = host.wait(10, ActiveState="inactive", Result="success")
    assert state["ExecMainStatus"] == "0"
    assert host.log().count("loaded the kernel programs") == 1
    assert not any(word in host.log() for word in ("ermitted", "denied", "Read-only"))
    uninstall(host)


def uninstall(host: Host) -> None:
    """Follow the steps of docs/install.md; nothing stays."""
    host.run("systemctl", "disable", "--now", "podtally")
    shown = host.run("/opt/podtally/bin/podtally", "detach", "--purge")
    assert re.search(r"^v1 +ingress", shown, re.MULTILINE), shown
    assert "removed /run/podtally/checkpoint" in shown
    host.run("rm", "-f", "/etc/systemd/system/podtally.service")
    host.run("rm", "-rf", "/etc/podtally", "/var/log/podtally")
    host.run("systemctl", "daemon-reload")
    assert (
        host.run("sh", "-c", "ls -A /sys/fs/bpf/podtally /run/podtally 2>/dev/null || true") == ""
    )
    assert host.run("tc", "filter", "show", "dev", "v1", "ingress") == ""


def kept(host: Host) -> set[str]:
    status = host.run("cat", f"/proc/{main_pid(host)}/status").splitlines()
    words = {key: word.strip() for key, _, word in (line.partition(":") for line in status)}
    assert words["NoNewPrivs"] == "1"
    assert words["Seccomp"] == "2"
    bits = int(words["CapEff"], 16)
    return {name for name, bit in BIT_OF.items() if bits >> bit & 1}


def test_what_it_cannot_start_with_is_reported(host: Host) -> None:
    host.run("mkdir", "-p", "/etc/podtally")
    host.run("sh", "-c", "echo 'epok: 1' >/etc/podtally/podtally.yaml")
    host.run("systemctl", "start", "podtally", check=False)
    state = host.wait(10, ActiveState="activating", ExecMainStatus="2")
    assert state["Restart"] == "always"
    assert "epok" in host.log()

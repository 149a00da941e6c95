# SPDX-License-Identifier: Apache-2.0
"""What the service manager hears, at a real datagram socket."""

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.runtime.sd_notify import ServiceManager


class Manager:
    """The manager's end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(5)

    def heard(self) -> dict[str, str]:
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def heard_nothing(self) -> bool:
        readable, _, _ = select.select([self.socket], [], [], 0)
        return not readable


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"podtally-test-{os.getpid()}"
    made = Manager(f"@{name}" if request.param == "abstract" else str(tmp_path / name))
    yield made
    made.socket.close()


@pytest.fixture
def service(manager: Manager) -> Iterator[ServiceManager]:
    made = ServiceManager(manager.environ)
    yield made
    made.close()


def test_ready_with_a_status(manager: Manager, service: ServiceManager) -> None:
    service.ready("watching 3 interfaces")
    assert manager.heard() == {"READY": "1", "STATUS": "watching 3 interfaces"}


def test_a_status_is_reported_once(manager: Manager, service: ServiceManager) -> None:
    service.status("compiling")
    service.status("compiling")
    service.status("attaching")
    assert manager.heard() == {"STATUS": "compiling"}
    assert manager.heard() == {"STATUS": "attaching"}
    assert manager.heard_nothing()


def test_a_status_cannot_smuggle_in_an_assignment(
    manager: Manager, service: ServiceManager
) -> None:
    service.status("cannot write:\nSTOPPING=1\rMAINPID=1")
    assert manager.heard() == {"STATUS": "cannot write: STOPPING=1 MAINPID=1"}


def test_reload(manager: Manager, service: ServiceManager) -> None:
    before = time.monotonic_ns() // 1000
    service.reloading()
    result = manager.heard()
    assert result["RELOADING"] == "1"
    assert before <= int(result["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    service.ready("watching")
    assert manager.heard()["READY"] == "1"


def test_stopping(manager: Manager, service: ServiceManager) -> None:
    service.stopping("the programs keep counting")
    assert manager.heard() == {"STOPPING": "1", "STATUS": "the programs keep counting"}


def test_the_watchdog_is_fed_only_if_it_waits(manager: Manager, service: ServiceManager) -> None:
    assert service.watchdog_seconds is None
    service.beat()
    assert manager.heard_nothing()
    fed = ServiceManager({**manager_environ(manager), "WATCHDOG_USEC": "23000000"})
    assert fed.watchdog_seconds == 23.0
    fed.beat()
    assert manager.heard() == {"WATCHDOG": "1"}
    fed.close()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),  # another's, inherited
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_owner_of_the_watchdog(variables: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(variables).watchdog_seconds == seconds


def test_nothing_is_left_for_child_processes(manager: Manager) -> None:
    environ = {**manager_environ(manager), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager(environ).close()
    assert environ == {"HOME": "/"}


def test_without_a_manager_nothing_is_reported() -> None:
    service = ServiceManager({})
    service.ready("watching")
    service.beat()
    service.stopping("")
    service.close()


def test_a_manager_that_went_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    service.ready("watching")
    service.status("still watching")
    assert len(caplog.records) == 1
    assert str(tmp_path / "gone") in caplog.text
    back = Manager(str(tmp_path / "gone"))
    service.status("there again")
    assert back.heard() == {"STATUS": "there again"}
    back.socket.close()
    service.close()


def test_a_manager_that_does_not_read_blocks_no_one(
    manager: Manager, service: ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Path("/proc/sys/net/unix/max_dgram_qlen")
    room = int(waits.read_text()) + 1
    for number in range(room):
        service.status(f"{number}")
    assert not caplog.records
    started = time.monotonic()
    service.status("one too many")
    assert 0.5 < time.monotonic() - started < 60
    assert len(caplog.records) == 1
    for number in range(room):
        assert manager.heard() == {"STATUS": f"{number}"}


def manager_environ(manager: Manager) -> dict[str, str]:
    (address,) = [manager.socket.getsockname()]
    text = address.decode() if isinstance(address, bytes) else address
    return {"NOTIFY_SOCKET": text.replace("\0", "@")}

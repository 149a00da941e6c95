# SPDX-License-Identifier: Apache-2.0
"""Many look-ups of sockets at once, their cost, and missing permissions."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from podtally.netlink import sock_diag
from podtally.netlink.batches import BATCH
from podtally.netlink.sock_diag import SocketDiag
from podtally.netlink.sock_diag_layout import PACKET, TCP, UDP, requests
from tests.kernel.sock_diag_support import Sockets, ask, diag, host, sockets
from tests.kernel.test_conntrack import Asked, tuples
from tests.kernel.uplink import HOST4, OUT4, cgroup

__all__ = ["diag", "host", "sockets"]

DATAGRAM = socket.SOCK_DGRAM
SCTP = 132
AGENT = Path(__file__).parents[2] / "agent"


@pytest.fixture
def crowd(sockets: Sockets) -> dict[int, int]:
    """A hundred ports, and the cgroup behind each."""
    ports = {}
    for start in (20000, 20050):
        with cgroup() as number:
            for port in range(start, start + 50):
                sockets.make(UDP, socket.AF_INET, ("", port))
                ports[port] = number
    return ports


def test_thousands_at_once(diag: SocketDiag, crowd: dict[int, int]) -> None:
    """More than a batch, some twice, in disorder, with gaps, and of both kinds."""
    order = np.random.default_rng(23).integers(19950, 20150, 5000).tolist()
    rows = [
        (HOST4, port, OUT4, 1 + port % 7, UDP if i % 5 else TCP) for i, port in enumerate(order)
    ]
    wanted = [crowd.get(row[1], 0) if row[4] == UDP else 0 for row in rows]
    assert len(set(wanted)) == 3
    assert diag.cgroups(tuples(rows)).tolist() == wanted


def in_a_row(first: int, count: int) -> list[Asked]:
    return [(HOST4, 20000 + i % 100, OUT4, first + i, UDP) for i in range(count)]


@pytest.mark.parametrize("option", [socket.SO_SNDBUF, socket.SO_RCVBUF])
def test_what_finds_no_room_is_counted(crowd: dict[int, int], option: int) -> None:
    """Lost requests or answers cost the packets that they are about, and no other."""
    diag = SocketDiag()
    assert diag._socket is not None
    diag._socket.setsockopt(socket.SOL_SOCKET, option, 1)  # the kernel's least: some KiB
    rows = in_a_row(1, 200)
    answers = diag.cgroups(tuples(rows)).tolist()
    lost = answers.count(0)
    assert all(a in (0, crowd[row[1]]) for a, row in zip(answers, rows, strict=True))
    assert 0 < lost == diag.errors
    assert any(answers[:BATCH]) == (option == socket.SO_RCVBUF)  # what has room is read
    assert ask(diag, rows[60]) == crowd[20060]
    assert diag.errors == lost
    diag.close()


@pytest.mark.parametrize("stale", [0, 0xFFFF])
def test_an_answer_to_something_else_is_not_taken(crowd: dict[int, int], stale: int) -> None:
    """One that no task waited for is of no use, and in the way of another."""
    diag = SocketDiag()
    assert diag._socket is not None
    packet = np.zeros(1, PACKET)
    packet["local"], packet["remote"] = tuples(in_a_row(1, 1))[:2]
    packet["local_port"], packet["protocol"] = 20000, UDP
    diag._socket.send(requests(packet, stale).tobytes())
    diag._sequence = 1
    rows = [(HOST4, port, OUT4, 1, UDP) for port in (20050, 20051, 20052)]
    answers = diag.cgroups(tuples(rows)).tolist()
    assert sorted(answers) == [0, crowd[20050], crowd[20050]]
    assert diag.errors == 1
    diag.close()


def test_numbers_restart(diag: SocketDiag, crowd: dict[int, int]) -> None:
    """Long before they are too large for their 32 bits."""
    rows = in_a_row(1, 300)
    diag._sequence = 0x7FFFFFFF - 200
    assert diag.cgroups(tuples(rows)).tolist() == [crowd[row[1]] for row in rows]
    assert diag._sequence == 300 - 201


def test_a_look_up_is_cheap(diag: SocketDiag, crowd: dict[int, int]) -> None:
    asked = tuples(in_a_row(1, 1000))
    costs = []
    for _ in range(20):
        start = time.thread_time()
        assert diag.cgroups(asked).all()
        costs.append((time.thread_time() - start) / 1000)
    assert sorted(costs)[10] < 20e-6, costs


def test_a_closed_one_reports_nothing(crowd: dict[int, int]) -> None:
    diag = SocketDiag()
    diag.close()
    diag.close()
    assert not diag.available
    assert diag.cgroups(tuples(in_a_row(1, 3))).tolist() == [0, 0, 0]


def test_a_protocol_that_the_kernel_does_not_report(
    crowd: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As UDP without udp_diag: here by a protocol that has no sockets at all."""
    monkeypatch.setattr(sock_diag, "_KINDS", {UDP: DATAGRAM, 253: DATAGRAM})
    monkeypatch.setattr(sock_diag, "_OPTIONS", {253: "CONFIG_INET_253_DIAG"})
    diag = SocketDiag()
    assert diag.reason == "the kernel does not report sockets (CONFIG_INET_253_DIAG)"
    assert diag.available
    assert ask(diag, in_a_row(1, 1)[0]) == crowd[20000]
    before = diag._sequence
    for protocol in (TCP, SCTP, 253):
        assert ask(diag, (HOST4, 20000, OUT4, 1, protocol)) == 0
    assert diag._sequence == before  # not asked: it would have a module looked for each time
    diag.close()


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from podtally.netlink.sock_diag import SocketDiag\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(AGENT)},
    )
    return done.stdout.strip()


def test_no_capability_is_needed() -> None:
    code = "import os; os.setuid(65534); d = SocketDiag(); print(d.available, d.reason, sep='|')"
    assert run(code) == "True|"


def test_a_missing_permission_is_reported() -> None:
    """No descriptor is left for the socket; nothing is found, and nothing breaks."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import os, resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1, {limit}))\n"
        "d = SocketDiag(); print(d.available, d.reason, sep='|')"
    )
    assert run(code) == "False|Too many open files"

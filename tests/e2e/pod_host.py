# SPDX-License-Identifier: Apache-2.0
"""Starts the processes of pods by fork alone: a few milliseconds each, and no thread around.

Run as ``python -m tests.e2e.pod_host``: errands come in as lines of JSON, reports go out.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.e2e.pod_life import Errand, Life, Report, Sink

ROOT = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class End(msgspec.Struct, frozen=True, tag=True):
    """A sink is to report, and to go."""

    name: str


_order = msgspec.json.Decoder(Errand | End)
_report = msgspec.json.Decoder(Report)


class PodHost:
    """The forking process, seen from whoever gives it errands."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._buffer = b""
        assert process.stdout is not None
        self.out = process.stdout.fileno()  # readable when there are reports

    def start(self, errand: Errand) -> None:
        self._say(errand)

    def end(self, name: str) -> None:
        self._say(End(name))

    def reports(self) -> list[Report]:
        """Those that are there; waits for one."""
        data = os.read(self.out, 1 << 20)
        assert data, "the pods' host has ended"
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [_report.decode(line) for line in lines]

    def _say(self, order: Errand | End) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()


@contextmanager
def pod_host() -> Iterator[PodHost]:
    """A host in the calling thread's namespace; all its pods' processes end with it."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.e2e.pod_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield PodHost(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Child(NamedTuple):
    pid: int
    name: str
    said: bytearray


class _Host:
    def __init__(self) -> None:
        self._children: dict[int, _Child] = {}  # by the pipe that each reports through
        self._ready = selectors.DefaultSelector()
        self._ready.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._buffer = b""

    def run(self) -> None:
        """Until there are no more errands."""
        is_wanted = True
        while is_wanted:
            for key, _ in self._ready.select():
                if key.fd == sys.stdin.fileno():
                    is_wanted = self._orders()
                else:
                    self._heard(key.fd)
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)

    def _orders(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 20)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            match _order.decode(line):
                case End(name):
                    (pid,) = (c.pid for c in self._children.values() if c.name == name)
                    os.kill(pid, signal.SIGTERM)
                case errand:
                    self._fork(errand)
        return bool(data)

    def _fork(self, errand: Errand) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _live(errand, write)
        os.close(write)
        self._children[read] = _Child(pid, errand.name, bytearray())
        self._ready.register(read, selectors.EVENT_READ)

    def _heard(self, fd: int) -> None:
        child = self._children[fd]
        if data := os.read(fd, 1 << 16):
            child.said.extend(data)
            return
        self._ready.unregister(fd)
        os.close(fd)
        del self._children[fd]
        _, status = os.waitpid(child.pid, 0)
        said = bytes(child.said)
        if not said:
            code = os.waitstatus_to_exitcode(status)
            said = msgspec.json.encode(Report(child.name, error=f"ended with {code}"))
        os.write(sys.stdout.fileno(), said + b"\n")


def _live(errand: Errand, report_to: int) -> None:
    """The whole life of a pod's process; does not return."""
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        Path(errand.cgroup, "cgroup.procs").write_text("0")
        with open(errand.netns, "rb") as netns:
            assert _libc.setns(netns.fileno(), CLONE_NEWNET) == 0, errand.netns
        report = (Life(errand) if errand.sinks else Sink(errand)).run()
        os.write(report_to, msgspec.json.encode(report))
        code = 0
    except (OSError, AssertionError) as error:
        late = Report(errand.name, ended_ns=time.monotonic_ns(), error=f"{error!r}")
        os.write(report_to, msgspec.json.encode(late))
    finally:
        os._exit(code)


if __name__ == "__main__":
    _Host().run()

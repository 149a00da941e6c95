# SPDX-License-Identifier: Apache-2.0
"""A network namespace of the test's own, pods in it, and programs that do nothing."""

import ctypes
import os
import queue
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from podtally.kernel import bpf
from podtally.netlink.model import PROGRAMS, Event
from tests.patience import deadline

CLONE_NEWNET = 0x40000000
BPFFS = Path("/sys/fs/bpf")
_SCHED_CLS = 3
# r0 = TC_ACT_UNSPEC; exit
_PASS = struct.pack("=BBhi", 0xB7, 0, 0, -1) + struct.pack("=BBhi", 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)

E = TypeVar("E")


def sh(command: str) -> str:
    """Run a command in the calling thread's namespace."""
    done = subprocess.run(command.split(), check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def own_netns() -> Iterator[None]:
    """Let the calling thread, and what it starts, live in a new namespace for a while."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        sh("ip link set lo up")
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Let the calling thread work in a named namespace; its sockets stay there."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        assert _libc.setns(there, CLONE_NEWNET) == 0
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(there)
        os.close(before)


@contextmanager
def named_netns(*names: str) -> Iterator[None]:
    """Make named namespaces, and remove those that are left."""
    try:
        for name in names:
            sh(f"ip netns add {name}")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def pin_directory() -> Iterator[Path]:
    if not os.path.ismount(BPFFS):
        sh(f"mount -t bpf bpf {BPFFS}")
    path = BPFFS / f"ptl-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        for pin in sorted(path.rglob("*"), reverse=True):
            if pin.is_dir():
                pin.rmdir()
            else:
                pin.unlink()
        path.rmdir()


def load(name: str) -> int:
    """Load a program that lets every packet pass; returns its fd."""
    code = ctypes.create_string_buffer(_PASS, len(_PASS))
    terms = ctypes.create_string_buffer(b"GPL")
    attr = bytearray(144)
    struct.pack_into(
        "=IIQQ", attr, 0, _SCHED_CLS, 2, ctypes.addressof(code), ctypes.addressof(terms)
    )
    attr[48 : 48 + len(name)] = name.encode()
    return bpf.bpf(bpf.PROG_LOAD, attr)


@contextmanager
def programs() -> Iterator[Mapping[str, int]]:
    """The four programs, freshly loaded."""
    fds = {name: load(name) for name in PROGRAMS.values()}
    try:
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


def ifindex(name: str) -> int:
    return int(Path(f"/proc/thread-self/net/dev_snmp6/{name}").read_text().split()[1])


def make_pod(link: str, netns: str) -> None:
    """A veth: ``link`` here, eth0 in the pod."""
    sh(f"ip link add {link} type veth peer name eth0 netns {netns}")


def give_addresses(link: str, netns: str, number: int) -> None:
    """10.99.N.1 here and 10.99.N.2 in the pod, both ends up."""
    sh(f"ip addr add 10.99.{number}.1/24 dev {link}")
    sh(f"ip link set {link} up")
    sh(f"ip -n {netns} addr add 10.99.{number}.2/24 dev eth0")
    sh(f"ip -n {netns} link set eth0 up")


class Inbox:
    """All events so far, and waiting for the next of a kind."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.seen: list[Event] = []

    def wait(
        self, kind: type[E], where: Callable[[E], bool] = lambda _: True, seconds: float = 60
    ) -> E:
        """The first event of a kind since the last ``clear()``; fails after a while."""
        end = deadline(seconds)
        while True:
            for event in self.seen:
                if isinstance(event, kind) and where(event):
                    return event
            try:
                self.seen.append(self.queue.get(timeout=max(0, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__} in {self.seen}") from None

    def drain(self, seconds: float = 0.1) -> list[Event]:
        """Everything, after a pause in which nothing more should come."""
        time.sleep(seconds)
        while not self.queue.empty():
            self.seen.append(self.queue.get())
        return self.seen

    def clear(self) -> None:
        self.drain()
        self.seen.clear()

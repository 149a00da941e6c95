# SPDX-License-Identifier: Apache-2.0
"""A host in a namespace of its own: an uplink with the programs on it, a pod behind it, sockets in cgroups."""

import ctypes
import ipaddress
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from podtally.runtimes import cgroup_ids
from tests.kernel.driver import Kernel
from tests.kernel.links_support import ifindex, named_netns, own_netns, sh
from tests.patience import deadline

UPLINK = "up0"
HOST4, OUT4 = "10.99.23.1", "10.99.23.2"
HOST6, OUT6 = "2001:db8:23::1", "2001:db8:23::2"
GATEWAY4, GATEWAY6 = "10.99.24.1", "2001:db8:24::1"
POD4, POD6 = "10.99.24.2", "2001:db8:24::2"

_libc = ctypes.CDLL(None, use_errno=True)


class Noted(NamedTuple):
    """What a row on the uplink says of who is behind it."""

    protocol: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    first_direction: int
    cgroup: int
    sent: bool  # a packet of a socket left
    received: bool  # the packet that claimed the row was for a socket


class Uplink:
    """The calling thread is in the host's namespace, a pod's and one outside are named."""

    def __init__(self, kernel: Kernel, out: str, pod: str) -> None:
        self.kernel, self.out, self.pod = kernel, out, pod
        self.ifindex = ifindex(UPLINK)

    def rows(self) -> list[Noted]:
        table, layout = self.kernel.table, self.kernel.layout
        return [
            _noted(cold, int(seen), layout.seen_socket, layout.seen_shift)
            for rows in table.read(table.epoch & 1)
            for seen, cold in zip(rows.seen, table.cold(rows.place), strict=True)
        ]

    def row(self, protocol: int, local_port: int = 0, remote_port: int = 0) -> Noted:
        """The one row of a protocol, and if they are given of these ports."""
        end = deadline(60)
        while True:
            found = [
                row
                for row in self.rows()
                if row.protocol == protocol
                and local_port in (0, row.local_port)
                and remote_port in (0, row.remote_port)
            ]
            if found or time.monotonic() > end:
                (only,) = found
                return only
            time.sleep(0.01)

    def row_of_sender(self, protocol: int, local_port: int = 0, remote_port: int = 0) -> Noted:
        """The same, once a packet of a socket has left; ACKs come late, as they like."""
        end = deadline(60)
        while True:
            row = self.row(protocol, local_port, remote_port)
            if row.sent or time.monotonic() > end:
                return row
            time.sleep(0.01)

    def settle(self) -> None:
        """Let what is under way arrive, then forget it."""
        time.sleep(0.1)
        self.forget()

    def forget(self) -> None:
        """An epoch ends: what goes on gets a row of its own."""
        table = self.kernel.table
        rest = table.epoch & 1
        table.flip()
        table.fence()
        table.clear(rest)


def _noted(cold: np.void, seen: int, flag: int, shift: int) -> Noted:
    return Noted(
        int(cold["protocol"]),
        _address(cold["local_address"].tobytes()),
        int(cold["local_port"]),
        _address(cold["remote_address"].tobytes()),
        int(cold["remote_port"]),
        int(cold["first_direction"]),
        int(cold["cgroup_high"]) << 32 | int(cold["cgroup_low"]),
        bool(seen & flag),
        bool(seen >> shift & flag),
    )


def _address(words: bytes) -> str:
    address = ipaddress.IPv6Address(words)
    return str(address.ipv4_mapped or address)


@contextmanager
def cgroup() -> Iterator[int]:
    """Let this process live in a new cgroup for a while; yields its id.

    A socket belongs to the cgroup of who made it, wherever he goes (cgroup_sk_alloc()).
    """
    mount = cgroup_ids.find_mount()
    if mount is None:
        pytest.skip("no cgroup v2")
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    before = mount.path / own
    new = mount.path / f"ptl-{secrets.token_hex(4)}"
    new.mkdir()
    try:
        (new / "cgroup.procs").write_text(str(os.getpid()))
        yield new.stat().st_ino
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        new.rmdir()


@contextmanager
def watched_host(kernel: Kernel) -> Iterator[Uplink]:
    """The calling thread lives there within the block."""
    tag = secrets.token_hex(3)
    out, pod = f"ptl-out-{tag}", f"ptl-pod-{tag}"
    with own_netns(), named_netns(out, pod):
        _wire(out, UPLINK, (HOST4, HOST6), (OUT4, OUT6))
        _wire(pod, "pod0", (GATEWAY4, GATEWAY6), (POD4, POD6))
        forward(True)
        for address in (OUT4, OUT6):
            sh(f"ip route add default via {address}")
        for netns, gateways in ((out, (HOST4, HOST6)), (pod, (GATEWAY4, GATEWAY6))):
            for address in gateways:
                sh(f"ip -n {netns} route add default via {address}")
        uplink = Uplink(kernel, out, pod)
        _attach(kernel)
        kernel.books.open_accounts(uplink.ifindex)
        try:
            yield uplink
        finally:
            kernel.books.close_accounts(uplink.ifindex)


def forward(on: bool) -> None:
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", switch).write_text(str(int(on)))


def _wire(netns: str, link: str, here: tuple[str, str], there: tuple[str, str]) -> None:
    sh(f"ip link add {link} type veth peer name eth0 netns {netns}")
    for four, six, where in ((*here, f"dev {link}"), (*there, "dev eth0")):
        within = "" if link in where else f"-n {netns} "
        sh(f"ip {within}addr add {four}/24 {where}")
        sh(f"ip {within}addr add {six}/64 {where} nodad")
    sh(f"ip link set {link} up")
    sh(f"ip -n {netns} link set eth0 up")
    sh(f"ip -n {netns} link set lo up")


def _attach(kernel: Kernel) -> None:
    sh(f"tc qdisc add dev {UPLINK} clsact")
    programs = kernel.generation.root / "progs"
    for side, program in (("egress", "from_host"), ("ingress", "to_host")):
        sh(
            f"tc filter add dev {UPLINK} {side} bpf direct-action object-pinned {programs}/{program}"
        )

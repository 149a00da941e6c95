# SPDX-License-Identifier: Apache-2.0
"""Pods and a server with many addresses, in namespaces behind a node, for `domains`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.domains_ends import RESOLVERS, Work
from bench.domains_zone import pool
from bench.node import NODE, ip, remove_pins
from podtally.errors import PodtallyError

FAR = "ptl-bench-far"
WATCHED = "ptlbd*"
_GATEWAY = ("10.99.254.1", "fe80::1")


@contextmanager
def made(pods: int, shared: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """Make the namespaces, and run the server; gives the namespaces of the pods."""
    names, server = tuple(f"ptl-bench-{i}" for i in range(pods)), None
    try:
        ip(*(f"netns add {name}" for name in (NODE, FAR, *names)))
        ip(f"-n {NODE} link set lo up")
        for number, name in enumerate(names):
            _join(name, f"ptlbd{number}", [f"10.99.7.{1 + number}", f"2001:db8:7::{1 + number}"])
        _join(FAR, "ptlbfar", [*RESOLVERS, *pool(shared, 4), *pool(shared, 6)])
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            subprocess.run([*_inside(NODE), "sysctl", "-qw", setting], check=True)
        server = _server(shared, folder)
        yield names
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        remove_pins()
        for name in (*names, FAR, NODE):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def clients(work: Work) -> subprocess.Popen[bytes]:
    """Start the clients of all pods; their standard output is what they saw, at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.domains_ends", "clients"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    with process.stdin as given:
        given.write(json.dumps(work).encode())
    process.stdin = None
    return process


def _join(name: str, interface: str, addresses: list[str]) -> None:
    """Connect a namespace to the node, which routes these addresses there."""
    lines = {
        NODE: [
            f"link add {interface} type veth peer name eth0 netns {name}",
            f"addr add {_GATEWAY[0]}/32 dev {interface}",
            f"addr add {_GATEWAY[1]}/64 dev {interface} nodad",
            f"link set {interface} up",
        ],
        name: [
            "link set lo up",
            *(f"addr add {each} dev eth0{' nodad' * (':' in each)}" for each in addresses),
            "link set eth0 up",
            f"route add {_GATEWAY[0]} dev eth0",
            f"route add default via {_GATEWAY[0]} src {addresses[0]}",
            f"route add default via {_GATEWAY[1]} dev eth0 src {addresses[1]}",
        ],
    }
    for where, some in lines.items():
        _batch(where, some)
    _batch(NODE, [f"route add {each} dev {interface}" for each in addresses])


def _batch(where: str, lines: list[str]) -> None:
    done = subprocess.run(
        ["ip", "-n", where, "-batch", "-"],
        input="".join(f"{line}\n" for line in lines).encode(),
        check=False,
        capture_output=True,
    )
    if done.returncode:
        raise PodtallyError(f"ip -n {where}: {done.stderr.decode().strip()}")


def _server(shared: int, folder: Path) -> subprocess.Popen[str]:
    certificate = folder / "server.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made += ["-nodes", "-days", "1", "-subj", "/CN=bench", "-keyout", str(certificate)]
    written = subprocess.run(made, check=True, capture_output=True)
    with certificate.open("ab") as file:
        file.write(written.stdout)
    server = subprocess.Popen(
        [
            *(*_inside(FAR), sys.executable, "-m", "bench.domains_ends", "server"),
            *(str(shared), str(certificate)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    if server.stdout.readline().strip() != "ready":
        raise PodtallyError("the server of the benchmark did not start")
    return server


def _inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}"]

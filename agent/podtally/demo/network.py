# SPDX-License-Identifier: Apache-2.0
"""The demo's network: namespaces on a bridge, created and removed with iproute2.

All addresses are on-link (a default route without a gateway): the bridge connects pods and
outside hosts alike, and no route leads to a real interface.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from podtally.demo.topology import BRIDGE, HOSTS, NODE, PREFIX
from podtally.errors import PodtallyError

NETNS_DIR = Path("/run/netns")


def build() -> None:
    """Create the network; PodtallyError with iproute2's message."""
    _ip(["-batch", "-"], (f"netns add {name}" for name in (NODE, *(host.netns for host in HOSTS))))
    for name in namespaces():
        _without_ipv6(name)
    _ip(["-n", NODE, "-batch", "-"], _node())
    for host in HOSTS:
        _ip(
            ["-n", host.netns, "-batch", "-"],
            [
                *(f"address add {address}/32 dev eth0" for address in (host.address, *host.also)),
                "link set lo up",
                "link set eth0 up",
                "route add default dev eth0",
            ],
        )


def _without_ipv6(netns: str) -> None:
    """Disable IPv6: its multicast reports would only distract; the shop uses IPv4."""
    switch = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
    script = f"test ! -e {switch} || echo 1 > {switch}"
    _run([*inside(netns), "sh", "-c", script])


def _node() -> list[str]:
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"link set {BRIDGE} up",
    ]
    for host in HOSTS:
        lines += [
            f"link add {host.interface} type veth peer name eth0 netns {host.netns}",
            f"link set {host.interface} master {BRIDGE} up",
            # podtally takes an address for a pod's if the node routes it there
            *(f"route add {address} dev {BRIDGE}" for address in (host.address, *host.also)),
        ]
    return lines


def namespaces() -> list[str]:
    """Return the demo's network namespaces, also those of an earlier demo."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIR.iterdir() if path.name.startswith(PREFIX))


def remove() -> None:
    """Remove the namespaces; bridge and veths go with them."""
    _ip(["-force", "-batch", "-"], (f"netns delete {name}" for name in namespaces()))


def remove_pod(netns: str) -> None:
    """Remove a pod, and with it its interface."""
    _ip(["netns", "del", netns])


def processes(netns: str) -> list[int]:
    """Return the ids of the processes in a namespace."""
    return [int(pid) for pid in _ip(["netns", "pids", netns]).split()]


def inside(netns: str) -> list[str]:
    """Return the command prefix that runs a command in a network namespace."""
    return ["nsenter", f"--net={NETNS_DIR / netns}"]


def _ip(arguments: list[str], batch: Iterable[str] = ()) -> str:
    return _run(["ip", *arguments], "".join(f"{line}\n" for line in batch))


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C must only reach the demo: no step is interrupted halfway
    )
    if done.returncode:
        raise PodtallyError(
            f"the demo's network: {' '.join(command)}: {done.stderr.strip()}",
            "it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and the kernel modules bridge and veth",
        )
    return done.stdout

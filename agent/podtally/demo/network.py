# SPDX-License-Identifier: Apache-2.0
"""The demo's network: namespaces on a bridge, made and removed with iproute2.

Addresses are on-link for every host (a default route without a gateway), so the bridge
joins pods and outside hosts alike, and nothing leads to a real interface.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from podtally.demo.topology import BRIDGE, HOSTS, NODE, PREFIX
from podtally.errors import PodtallyError

NETNS_DIR = Path("/run/netns")


def build() -> None:
    """Make the whole network; raises PodtallyError with iproute2's words when it cannot."""
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
    """Keep the kernel's multicast reports out of the picture: the shop speaks IPv4."""
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
        ]
    return lines


def namespaces() -> list[str]:
    """Return the demo's network namespaces that stand now, also an earlier demo's."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIR.iterdir() if path.name.startswith(PREFIX))


def remove() -> None:
    """Remove the namespaces; bridge and veths go with them."""
    _ip(["-force", "-batch", "-"], (f"netns delete {name}" for name in namespaces()))


def processes(netns: str) -> list[int]:
    """Ids of the processes in a namespace."""
    return [int(pid) for pid in _ip(["netns", "pids", netns]).split()]


def inside(netns: str) -> list[str]:
    """Return what goes before a command to run it in a named network namespace."""
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
        start_new_session=True,  # Ctrl-C is for the demo alone: it must not cut a step in two
    )
    if done.returncode:
        raise PodtallyError(
            f"the demo's network: {' '.join(command)}: {done.stderr.strip()}",
            "namespaces, bridges and veths need CAP_SYS_ADMIN, CAP_NET_ADMIN and the kernel's"
            " bridge and veth",
        )
    return done.stdout

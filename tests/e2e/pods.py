# SPDX-License-Identifier: Apache-2.0
"""A node with pods, in network namespaces of its own: veths, a bridge, and their counters."""

import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel.links_support import inside, own_netns
from tests.patience import deadline

BRIDGE = "br0"
_numbers = itertools.count()

Key = tuple[str, str]  # interface, direction as the pod sees it
Counters = dict[Key, int]


@dataclass(frozen=True)
class Pod:
    netns: str
    link: str  # the node's end
    ipv4: str
    ipv6: str


def ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


@dataclass
class Node:
    """Pods ``PREFIX-NAME`` behind links ``ptl-NAME``; what is made here goes with the node."""

    prefix: str
    pods: dict[str, Pod] = field(default_factory=dict)

    def bridged_pod(self, name: str) -> Pod:
        """A pod on the bridge, with the next addresses of 10.99.0.0/24 and 2001:db8::/64."""
        number = len(self.pods) + 1
        pod = Pod(
            f"{self.prefix}-{name}", f"ptl-{name}", f"10.99.0.{number}", f"2001:db8::{number}"
        )
        ip("netns", "add", pod.netns)
        self.pods[name] = pod
        with inside(pod.netns):
            sysctl("ipv6/conf/default/addr_gen_mode", 1)  # no link-local address, less chatter
            sysctl("ipv6/conf/default/router_solicitations", 0)
        ip("link", "add", pod.link, "type", "veth", "peer", "name", "eth0", "netns", pod.netns)
        ip("link", "set", pod.link, "master", BRIDGE, "up")
        ip("-n", pod.netns, "addr", "add", f"{pod.ipv4}/24", "dev", "eth0")
        ip("-n", pod.netns, "addr", "add", f"{pod.ipv6}/64", "dev", "eth0", "nodad")
        ip("-n", pod.netns, "link", "set", "lo", "up")
        ip("-n", pod.netns, "link", "set", "eth0", "up")
        return pod

    def routed_pod(self, name: str, number: int) -> Pod:
        """A pod on a link of its own, 10.99.NUMBER.2; nothing but its own traffic reaches it."""
        pod = Pod(f"{self.prefix}-{name}", f"ptl-{name}", f"10.99.{number}.2", "")
        ip("netns", "add", pod.netns)
        self.pods[name] = pod
        with inside(pod.netns):
            sysctl("ipv6/conf/default/disable_ipv6", 1)
        ip("link", "add", pod.link, "type", "veth", "peer", "name", "eth0", "netns", pod.netns)
        ip("addr", "add", f"10.99.{number}.1/30", "dev", pod.link)
        ip("link", "set", pod.link, "up")
        ip("-n", pod.netns, "addr", "add", f"{pod.ipv4}/30", "dev", "eth0")
        ip("-n", pod.netns, "link", "set", "eth0", "up")
        ip("-n", pod.netns, "route", "add", "default", "via", f"10.99.{number}.1")
        return pod

    def remove(self, name: str) -> None:
        ip("netns", "del", self.pods.pop(name).netns)

    def quiet(self, seconds: float = 1.0, limit: float = 60.0) -> Counters:
        """Wait until no counter has moved for a while; returns them."""
        end = deadline(limit)
        before, since = counters(), time.monotonic()
        while time.monotonic() - since < seconds:
            assert time.monotonic() < end, "the links do not come to rest"
            time.sleep(0.05)
            now = counters()
            if now != before:
                before, since = now, time.monotonic()
        return before


@contextmanager
def node() -> Iterator[Node]:
    """A node for the calling thread and what it starts; everything goes with it."""
    made = Node(f"ptl-{os.getpid()}-{next(_numbers)}")
    with own_netns():
        sysctl("ipv6/conf/default/disable_ipv6", 1)
        sysctl("ipv4/ip_forward", 1)
        ip("link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        ip("link", "set", BRIDGE, "up")
        try:
            yield made
        finally:
            for pod in made.pods.values():
                ip("netns", "del", pod.netns, check=False)


def counters() -> Counters:
    """What the links themselves have counted, in bytes."""
    found: Counters = {}
    for link in json.loads(ip("-j", "-s", "link", "show")):
        if link["ifname"].startswith("ptl-"):
            found[link["ifname"], "egress"] = link["stats64"]["rx"]["bytes"]
            found[link["ifname"], "ingress"] = link["stats64"]["tx"]["bytes"]
    return found


def dropped() -> dict[str, int]:
    """Packets that the links took and did not deliver."""
    return {
        link["ifname"]: link["stats64"]["tx"]["dropped"]
        for link in json.loads(ip("-j", "-s", "link", "show"))
        if link["ifname"].startswith("ptl-")
    }


def until_up(link: str, netns: str = "") -> None:
    """Wait until the link sends: the kernel gives it its queue later, from a work queue."""
    words = ("-n", netns) if netns else ()
    end = deadline(60.0)
    while True:
        (shown,) = json.loads(ip(*words, "-j", "link", "show", link))
        if shown["operstate"] == "UP" and shown["qdisc"] != "noop":
            return
        assert time.monotonic() < end, shown
        time.sleep(0.002)


def own_counters(pod: Pod) -> tuple[int, int]:
    """Bytes that the pod's own end has sent and received."""
    (link,) = json.loads(ip("-n", pod.netns, "-j", "-s", "link", "show", "eth0"))
    return link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"]


def pod_socket(pod: Pod, family: int, kind: int, protocol: int = 0) -> socket.socket:
    def make() -> socket.socket:
        with inside(pod.netns):
            return socket.socket(family, kind, protocol)

    with ThreadPoolExecutor(1) as other:  # so that a failure never leaves our thread elsewhere
        return other.submit(make).result()

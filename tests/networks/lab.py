# SPDX-License-Identifier: Apache-2.0
"""A node in a namespace of its own, with an uplink, an API, and pods as one network plugin connects them."""

import itertools
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.apiserver.server import ApiServer
from tests.e2e import kube_objects as objects
from tests.e2e.kube_node import kubeconfig
from tests.e2e.pods import Counters, ip, sysctl, until_up
from tests.e2e.policy_cluster import pod_process
from tests.e2e.policy_world import no_other_names
from tests.e2e.test_host import cgroup
from tests.kernel.links_support import inside, own_netns
from tests.networks.modules import require
from tests.patience import deadline

_numbers = itertools.count()
UPLINK = "uplink0"
NODE = {4: "203.0.113.1", 6: "2001:db8:f::1"}
WORLD = {4: "203.0.113.10", 6: "2001:db8:f::10"}
POD_NETWORK = {4: "10.99.0.0/24", 6: "2001:db8:99::/64"}
GATEWAY = {4: "10.99.0.1", 6: "2001:db8:99::1"}
SERVICE = {4: "10.99.200.1", 6: "2001:db8:200::1"}  # the ClusterIP of ``front``
FRONT, BACK = 80, 8080  # ports of the Service, and of the pod behind it


class Member(NamedTuple):
    """A pod; ``link`` is the node's end."""

    name: str
    number: int
    netns: str
    link: str
    uid: str
    addresses: Mapping[int, str]  # by IP version

    def route(self, version: int) -> str:
        return f"{self.addresses[version]}/{32 if version == 4 else 128}"


class Shape(Protocol):
    """How a network plugin builds a node and connects pods, and a proxy translates Services."""

    @property
    def prefix(self) -> str:
        """Return how the node's ends of pods are named."""

    @property
    def versions(self) -> tuple[int, ...]:
        """Return the IP versions."""

    @property
    def interfaces(self) -> str:
        """Return ``--interfaces``."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Return more flags of the agent."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Return what of the kernel it takes that not every kernel has; see ``require``."""

    @property
    def uplinks(self) -> tuple[str, ...]:
        """Return the node's own interfaces that are watched."""

    def connect(self, lab: "Lab") -> None:
        """Make UPLINK on the node and eth0 in the world, which lead to each other."""

    def prepare(self, lab: "Lab") -> None:
        """Build what all pods of the node share."""

    def plug(self, lab: "Lab", pod: Member) -> None:
        """Connect a pod that has its namespace."""

    def serve(self, lab: "Lab", backend: Member) -> None:
        """Translate the Service to its backend."""

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        """Return where the outside reaches a pod."""


@dataclass
class Lab:
    """The calling thread is on the node."""

    shape: Shape
    api: ApiServer
    stack: ExitStack
    id: str = field(default_factory=lambda: f"ptl-{os.getpid()}-{next(_numbers)}")
    pods: dict[str, Member] = field(default_factory=dict)
    world: str = ""  # a network namespace that stands for the internet

    def netns(self, name: str) -> str:
        """Make a network namespace that goes with the lab."""
        made = f"{self.id}-{name}"
        ip("netns", "add", made)
        self.stack.callback(ip, "netns", "del", made, check=False)
        with inside(made):
            sysctl("ipv6/conf/all/accept_dad", 0)
            sysctl("ipv6/conf/default/accept_dad", 0)
            sysctl("ipv6/conf/default/router_solicitations", 0)
            sysctl("ipv6/conf/default/disable_ipv6", int(6 not in self.shape.versions))
        ip("-n", made, "link", "set", "lo", "up")
        return made

    def pod(self, name: str, namespace: str = "shop", **labels: str) -> Member:
        """A running pod with a process, which the API reports."""
        number, uid = 11 + len(self.pods), str(uuid.uuid4())
        addresses = {4: f"10.99.0.{number}", 6: f"2001:db8:99::{number}"}
        chosen = {each: addresses[each] for each in self.shape.versions}
        pod = Member(name, number, self.netns(name), f"{self.shape.prefix}{number}", uid, chosen)
        self.pods[name] = pod
        self.shape.plug(self, pod)
        until_up("eth0", pod.netns)
        container = uuid.uuid4().hex + uuid.uuid4().hex
        path = self.stack.enter_context(cgroup(f"kubepods/besteffort/pod{uid}/{container}"))
        self.stack.enter_context(pod_process(path, pod.netns))
        who = objects.Identity(name, uid, container, tuple(chosen.values()))
        item = objects.running(objects.admitted(who), who)
        item["metadata"] |= {"namespace": namespace, "labels": labels}
        self.api.put("pods", item)
        return pod

    def remove(self, name: str) -> None:
        """Remove a pod as CNI's DEL does; the API reports it as well."""
        pod = self.pods.pop(name)
        ip("-n", pod.netns, "link", "del", "eth0")
        self.api.delete("pods", "shop", name)

    def policy(self, name: str, **spec: Any) -> None:
        metadata = {"namespace": "shop", "name": name}
        self.api.put("networkpolicies", {"metadata": metadata, "spec": spec})

    def service(self, name: str, backend: Member) -> None:
        """A Service of all IP versions, in the API and as the proxy translates it."""
        versions, families = self.shape.versions, {4: "IPv4", 6: "IPv6"}
        metadata = {"namespace": "shop", "name": name}
        addresses = [SERVICE[version] for version in versions]
        spec = {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ports": [{"port": FRONT, "targetPort": BACK, "protocol": "TCP"}],
        }
        self.api.put("services", {"metadata": metadata, "spec": spec})
        for version in versions:
            labels = {"kubernetes.io/service-name": name}
            piece = {
                "metadata": {"namespace": "shop", "name": f"{name}-{version}", "labels": labels},
                "addressType": families[version],
                "endpoints": [
                    {"addresses": [backend.addresses[version]], "conditions": {"ready": True}}
                ],
                "ports": [{"port": BACK, "protocol": "TCP"}],
            }
            self.api.put("endpointslices", piece)
        self.shape.serve(self, backend)

    def flags(self, folder: Path) -> tuple[str, ...]:
        config = kubeconfig(folder / "kubeconfig", self.api.url)
        names = ("--kubeconfig", str(config), "--node-name", objects.NODE)
        more = (*names, *no_other_names(folder), *self.shape.flags)
        return ("--interfaces", self.shape.interfaces, *more)

    def quiet(self, seconds: float = 2.5) -> Counters:
        """Wait until no counter has moved for a while: addresses are announced now and then."""
        end = deadline(60.0)
        before, since = self.counters(), time.monotonic()
        while time.monotonic() - since < seconds:
            assert time.monotonic() < end, "the links do not come to rest"
            time.sleep(0.05)
            now = self.counters()
            if now != before:
                before, since = now, time.monotonic()
        return before

    def counters(self) -> Counters:
        """What the watched interfaces of the node have counted, in bytes."""
        found: Counters = {}
        pods = {pod.link for pod in self.pods.values()}
        for link in json.loads(ip("-j", "-s", "link", "show")):
            name = link["ifname"]
            received, sent = (link["stats64"][way]["bytes"] for way in ("rx", "tx"))
            if name in pods:
                found[name, "egress"], found[name, "ingress"] = received, sent
            elif name in self.shape.uplinks:
                found[name, "egress"], found[name, "ingress"] = sent, received
        return found


@contextmanager
def lab(shape: Shape) -> Iterator[Lab]:
    """A node as ``shape`` builds it, without pods, with an uplink into the world."""
    require(*shape.modules)
    with own_netns(), ExitStack() as stack:
        sysctl("ipv6/conf/default/accept_dad", 0)
        sysctl("ipv6/conf/default/router_solicitations", 0)
        sysctl("ipv6/conf/default/disable_ipv6", int(6 not in shape.versions))
        sysctl("ipv4/ip_forward", 1)
        sysctl("ipv6/conf/all/forwarding", 1)
        api = stack.enter_context(ApiServer())
        made = Lab(shape, api, stack)
        made.world = made.netns("world")
        shape.connect(made)
        for version in shape.versions:
            bits, extra = (24, ()) if version == 4 else (64, ("nodad",))
            ip("addr", "add", f"{NODE[version]}/{bits}", "dev", UPLINK, *extra)
            ip("-n", made.world, "addr", "add", f"{WORLD[version]}/{bits}", "dev", "eth0", *extra)
        ip("link", "set", UPLINK, "up")
        ip("-n", made.world, "link", "set", "eth0", "up")
        for version in shape.versions:
            flag = f"-{version}"
            ip("-n", made.world, flag, "route", "add", POD_NETWORK[version], "via", NODE[version])
            out = ("via", WORLD[version], "dev", UPLINK, "onlink")
            ip(flag, "route", "add", "default", *out)
        node = objects.node()
        node["status"]["addresses"] = [
            {"type": "InternalIP", "address": NODE[version]} for version in shape.versions
        ]
        node["spec"] = {"podCIDRs": [POD_NETWORK[version] for version in shape.versions]}
        api.put("nodes", node)
        labels = {"kubernetes.io/metadata.name": "shop"}
        api.put("namespaces", {"metadata": {"name": "shop", "labels": labels}})
        shape.prepare(made)
        yield made


def nft(rules: str, netns: str = "") -> None:
    """Apply rules on the node, or in a namespace."""
    command = ["nft", "-f", "-"]
    if netns:
        command = ["nsenter", f"--net=/run/netns/{netns}", *command]
    done = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

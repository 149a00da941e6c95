# SPDX-License-Identifier: Apache-2.0
"""Networks as the plugins of real clusters build them, one class each."""

import os
import subprocess
from dataclasses import dataclass

from podtally.kernel import bpf
from tests.e2e.pods import ip, sysctl
from tests.kernel.links_support import BPFFS, ifindex
from tests.networks import programs
from tests.networks.lab import (
    BACK,
    FRONT,
    GATEWAY,
    NODE,
    POD_NETWORK,
    SERVICE,
    UPLINK,
    Lab,
    Member,
    nft,
)
from tests.networks.mesh import sidecar

PUBLISHED = 30080
LINK_LOCAL_GATEWAY = "169.254.1.1"
HOST_MAC = "ee:ee:ee:ee:ee:ee"  # of all host ends, as Calico has it
FAMILY = {4: "ip", 6: "ip6"}


def pair(pod: Member, *more: str) -> None:
    ip("link", "add", pod.link, *more, "type", "veth", "peer", "name", "eth0", "netns", pod.netns)


def wire(lab: Lab, here: str, there: str) -> None:
    """Join the node and the world."""
    ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", lab.world)


def in_pod(pod: Member, *words: str) -> None:
    ip("-n", pod.netns, *words)


# -- proxies ------------------------------------------------------------------------------------


def nftables_proxy(versions: tuple[int, ...], backend: Member, zone: int = 0) -> None:
    """kube-proxy's nftables mode: a map from addresses and ports to chains; ``zone``: OVN, Antrea."""
    for version in versions:
        family = FAMILY[version]
        zones = f"""
          chain zones {{
            type filter hook prerouting priority -300;
            ct zone set {zone}
          }}
          chain zones-out {{
            type filter hook output priority -300;
            ct zone set {zone}
          }}
        """
        to = backend.addresses[version] if version == 4 else f"[{backend.addresses[version]}]"
        nft(f"""
        table {family} kube-proxy {{
          {zones if zone else ""}
          chain service-front {{
            numgen random mod 1 vmap {{ 0 : goto endpoint-front }}
          }}
          chain endpoint-front {{
            {family} saddr {backend.addresses[version]} mark set mark or 0x4000
            meta l4proto tcp dnat to {to}:{BACK}
          }}
          map services {{
            type ipv{version}_addr . inet_proto . inet_service : verdict
            elements = {{ {SERVICE[version]} . tcp . {FRONT} : goto service-front }}
          }}
          chain nat-prerouting {{
            type nat hook prerouting priority dstnat;
            {family} daddr . meta l4proto . th dport vmap @services
          }}
          chain nat-output {{
            type nat hook output priority -100;
            {family} daddr . meta l4proto . th dport vmap @services
          }}
          chain nat-postrouting {{
            type nat hook postrouting priority srcnat;
            mark and 0x4000 != 0 masquerade fully-random
          }}
        }}
        """)


def iptables_proxy(backend: Member) -> None:
    """kube-proxy's iptables mode."""
    front = f"-d {SERVICE[4]}/32 -p tcp -m tcp --dport {FRONT}"
    to = f"{backend.addresses[4]}:{BACK}"
    for rule in (
        "-N KUBE-SERVICES",
        "-N KUBE-SVC-FRONT",
        "-N KUBE-SEP-FRONT",
        "-N KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A PREROUTING -m comment --comment kubernetes -j KUBE-SERVICES",
        "-A OUTPUT -m comment --comment kubernetes -j KUBE-SERVICES",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
        f"-A KUBE-SERVICES {front} -j KUBE-SVC-FRONT",
        "-A KUBE-SVC-FRONT -m statistic --mode random --probability 1.0 -j KUBE-SEP-FRONT",
        f"-A KUBE-SEP-FRONT -s {backend.addresses[4]}/32 -j KUBE-MARK-MASQ",
        f"-A KUBE-SEP-FRONT -p tcp -m tcp -j DNAT --to-destination {to}",
    ):
        iptables("nat", rule)


def iptables(table: str, rule: str) -> None:
    command = ["iptables", "-w", "-t", table, *rule.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{rule}: {done.stderr}"


def masquerade(versions: tuple[int, ...]) -> None:
    """What leaves the pod network has the node's address."""
    for version in versions:
        family, network = FAMILY[version], POD_NETWORK[version]
        nft(f"""
        table {family} source-nat {{
          chain postrouting {{
            type nat hook postrouting priority srcnat;
            {family} saddr {network} {family} daddr != {network} oifname {UPLINK} masquerade
          }}
        }}
        """)


# -- plugins ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """What most nodes have: one uplink, which is not watched, and no module out of the ordinary."""

    modules: tuple[str, ...] = ()
    uplinks: tuple[str, ...] = ()

    def connect(self, lab: Lab) -> None:
        wire(lab, UPLINK, "eth0")


@dataclass(frozen=True)
class PointToPoint(Plain):
    """CNI's ptp plugin (kindnet, GKE): the gateway's address on each host end, a route to each pod."""

    versions: tuple[int, ...] = (4,)
    prefix: str = "veth"
    interfaces: str = "veth*"
    flags: tuple[str, ...] = ()
    zone: int = 0

    def prepare(self, lab: Lab) -> None:
        masquerade(self.versions)

    def join(self, pod: Member) -> None:
        pair(pod)

    def plug(self, lab: Lab, pod: Member) -> None:
        self.join(pod)
        ip("link", "set", pod.link, "up")
        in_pod(pod, "link", "set", "eth0", "up")
        for version in self.versions:
            gateway = f"{GATEWAY[version]}/{32 if version == 4 else 128}"
            flag, extra = f"-{version}", () if version == 4 else ("nodad",)
            ip("addr", "add", gateway, "dev", pod.link, *extra)
            in_pod(pod, "addr", "add", pod.route(version), "dev", "eth0", *extra)
            ip(flag, "route", "add", pod.route(version), "dev", pod.link)
            in_pod(pod, flag, "route", "add", gateway, "dev", "eth0")
            in_pod(pod, flag, "route", "add", "default", "via", GATEWAY[version], "dev", "eth0")

    def serve(self, lab: Lab, backend: Member) -> None:
        nftables_proxy(self.versions, backend, self.zone)

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return pod.addresses[version], BACK


@dataclass(frozen=True)
class Bridge(Plain):
    """CNI's bridge plugin with host-local addresses (flannel, k3s, Docker), in hairpin mode."""

    versions: tuple[int, ...] = (4,)
    prefix: str = "veth"
    interfaces: str = "veth*"
    flags: tuple[str, ...] = ()
    name: str = "cni0"

    def prepare(self, lab: Lab) -> None:
        sysctl("bridge/bridge-nf-call-iptables", 1)
        sysctl("bridge/bridge-nf-call-ip6tables", 1)
        ip("link", "add", self.name, "type", "bridge")
        ip("link", "set", self.name, "up")
        for version in self.versions:
            bits = POD_NETWORK[version].rpartition("/")[2]
            extra = () if version == 4 else ("nodad",)
            ip("addr", "add", f"{GATEWAY[version]}/{bits}", "dev", self.name, *extra)
        masquerade(self.versions)

    def plug(self, lab: Lab, pod: Member) -> None:
        pair(pod)
        ip("link", "set", pod.link, "master", self.name, "up")
        ip("link", "set", pod.link, "type", "bridge_slave", "hairpin", "on")
        in_pod(pod, "link", "set", "eth0", "up")
        for version in self.versions:
            bits = POD_NETWORK[version].rpartition("/")[2]
            extra = () if version == 4 else ("nodad",)
            in_pod(pod, "addr", "add", f"{pod.addresses[version]}/{bits}", "dev", "eth0", *extra)
            in_pod(pod, f"-{version}", "route", "add", "default", "via", GATEWAY[version])

    def serve(self, lab: Lab, backend: Member) -> None:
        nftables_proxy(self.versions, backend)

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return pod.addresses[version], BACK


@dataclass(frozen=True)
class Calico(Plain):
    """/32 addresses, proxy ARP on the host's ends, which have no address; kube-proxy's iptables mode."""

    versions: tuple[int, ...] = (4,)
    prefix: str = "cali"
    interfaces: str = "cali*"
    flags: tuple[str, ...] = ()

    def prepare(self, lab: Lab) -> None:
        masquerade(self.versions)

    def plug(self, lab: Lab, pod: Member) -> None:
        pair(pod, "address", HOST_MAC)
        sysctl(f"ipv4/conf/{pod.link}/proxy_arp", 1)
        sysctl(f"ipv4/neigh/{pod.link}/proxy_delay", 0)
        ip("link", "set", pod.link, "up")
        in_pod(pod, "link", "set", "eth0", "up")
        in_pod(pod, "addr", "add", pod.route(4), "dev", "eth0")
        in_pod(pod, "route", "add", LINK_LOCAL_GATEWAY, "dev", "eth0", "scope", "link")
        in_pod(pod, "route", "add", "default", "via", LINK_LOCAL_GATEWAY, "dev", "eth0")
        ip("route", "add", pod.route(4), "dev", pod.link, "scope", "link")

    def serve(self, lab: Lab, backend: Member) -> None:
        iptables_proxy(backend)

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return pod.addresses[version], BACK


@dataclass(frozen=True)
class AwsVpc(Plain):
    """A second network card, chosen by rules for each pod, and a chain that translates sources."""

    versions: tuple[int, ...] = (4,)
    prefix: str = "eni"
    interfaces: str = "eni*"
    flags: tuple[str, ...] = ()

    def prepare(self, lab: Lab) -> None:
        card, table = "card1", "2"
        ip("link", "add", card, "type", "veth", "peer", "name", "eth1", "netns", lab.world)
        ip("addr", "add", "198.18.0.1/24", "dev", card)
        ip("-n", lab.world, "addr", "add", "198.18.0.10/24", "dev", "eth1")
        ip("link", "set", card, "up")
        ip("-n", lab.world, "link", "set", "eth1", "up")
        for name in ("all", UPLINK, card):
            sysctl(f"ipv4/conf/{name}/rp_filter", 2)
        ip("route", "add", "default", "via", "198.18.0.10", "dev", card, "table", table)
        ip("rule", "add", "prio", "1024", "to", POD_NETWORK[4], "lookup", "main")
        node = "203.0.113.1"
        for table_of, rule in (
            ("nat", "-N AWS-SNAT-CHAIN-0"),
            ("nat", "-A POSTROUTING -m comment --comment AWS-SNAT-CHAIN -j AWS-SNAT-CHAIN-0"),
            ("nat", f"-A AWS-SNAT-CHAIN-0 -d {POD_NETWORK[4]} -j RETURN"),
            (
                "nat",
                f"-A AWS-SNAT-CHAIN-0 ! -o eni+ -s {POD_NETWORK[4]} -j SNAT --to-source {node} --random-fully",
            ),
        ):
            iptables(table_of, rule)

    def plug(self, lab: Lab, pod: Member) -> None:
        pair(pod, "address", HOST_MAC)
        ip("link", "set", pod.link, "up")
        in_pod(pod, "link", "set", "eth0", "up")
        in_pod(pod, "addr", "add", pod.route(4), "dev", "eth0")
        in_pod(pod, "route", "add", LINK_LOCAL_GATEWAY, "dev", "eth0", "scope", "link")
        in_pod(pod, "route", "add", "default", "via", LINK_LOCAL_GATEWAY, "dev", "eth0")
        neighbour = (LINK_LOCAL_GATEWAY, "lladdr", HOST_MAC, "nud", "permanent", "dev", "eth0")
        in_pod(pod, "neigh", "add", *neighbour)
        ip("route", "add", pod.route(4), "dev", pod.link, "scope", "link")
        ip("rule", "add", "prio", "512", "to", pod.route(4), "lookup", "main")
        ip("rule", "add", "prio", "1536", "from", pod.route(4), "lookup", "2")

    def serve(self, lab: Lab, backend: Member) -> None:
        iptables_proxy(backend)

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return pod.addresses[version], BACK


@dataclass(frozen=True)
class Docker(Bridge):
    """A bridge, and a port of the node that is translated to the pod's."""

    name: str = "docker0"

    def serve(self, lab: Lab, backend: Member) -> None:
        super().serve(lab, backend)
        nft(f"""
        table ip published {{
          chain prerouting {{
            type nat hook prerouting priority dstnat;
            fib daddr type local tcp dport {PUBLISHED} dnat to {backend.addresses[4]}:{BACK}
          }}
        }}
        """)

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return NODE[4], PUBLISHED


@dataclass(frozen=True)
class Ipvs(PointToPoint):
    """kube-proxy's IPVS mode: the Service's address is the node's own, on a device of its own."""

    modules: tuple[str, ...] = ("ip_vs",)

    def prepare(self, lab: Lab) -> None:
        super().prepare(lab)
        ip("link", "add", "kube-ipvs0", "type", "dummy")
        subprocess.run(["ipvsadm", "--clear"], check=True)
        sysctl("ipv4/vs/conntrack", 1)

    def serve(self, lab: Lab, backend: Member) -> None:
        ip("addr", "add", f"{SERVICE[4]}/32", "dev", "kube-ipvs0")
        front, back = f"{SERVICE[4]}:{FRONT}", f"{backend.addresses[4]}:{BACK}"
        for command in (
            f"--add-service --tcp-service {front} --scheduler rr",
            f"--add-server --tcp-service {front} --real-server {back} --masquerading",
        ):
            subprocess.run(["ipvsadm", *command.split()], check=True)


@dataclass(frozen=True)
class Mesh(PointToPoint):
    """A service mesh's sidecar in each pod but one."""

    def plug(self, lab: Lab, pod: Member) -> None:
        super().plug(lab, pod)
        if pod.name != "stray":
            lab.stack.enter_context(sidecar(pod))


@dataclass(frozen=True)
class SharedClsact(PointToPoint):
    """Another's filters have clsact's first priority, and end the chain: Cilium before kernel 6.6."""

    flags: tuple[str, ...] = ("--attach", "clsact", "--attach-first")

    def plug(self, lab: Lab, pod: Member) -> None:
        super().plug(lab, pod)
        subprocess.run(["tc", "qdisc", "add", "dev", pod.link, "clsact"], check=True)
        with programs.pinned(programs.director({}, 0), BPFFS) as pin:
            for hook in ("ingress", "egress"):
                place = f"tc filter add dev {pod.link} {hook} prio 1 handle 1"
                subprocess.run([*place.split(), *f"bpf da object-pinned {pin}".split()], check=True)


@dataclass(frozen=True)
class Cilium(PointToPoint):
    """Programs of another owner on the pods' links: they redirect to ``web``, and end the chain."""

    prefix: str = "lxc"
    interfaces: str = "lxc*"
    helper: int = programs.REDIRECT_NEIGH

    def serve(self, lab: Lab, backend: Member) -> None:
        super().serve(lab, backend)
        to_backend = {backend.addresses[4]: ifindex(backend.link)}
        directing = programs.director(to_backend, self.helper)
        for pod in lab.pods.values():
            for code, hook in (
                (programs.director({}, 0) if pod == backend else directing, bpf.TCX_INGRESS),
                (programs.director({}, 0), bpf.TCX_EGRESS),
            ):
                link = programs.attach_last(code, ifindex(pod.link), hook)
                lab.stack.callback(os.close, link)

# SPDX-License-Identifier: Apache-2.0
"""Tunnels between nodes: ``world`` is the other node, with a pod."""

import base64
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.pods import ip
from tests.networks.lab import NODE, POD_NETWORK, UPLINK, WORLD, Lab
from tests.networks.shapes import Bridge

TUNNEL = "tunnel1"
OTHER_POD, OTHER_STRAY = "10.99.1.5", "10.99.1.6"
_DEVICE = ("dev", TUNNEL)


@dataclass(frozen=True)
class End:
    """A node's end of the tunnel."""

    lab: Lab
    netns: str  # "" for the node that is watched
    number: int  # of the pod network
    own: str
    other: str

    def ip(self, *words: str) -> None:
        ip(*(("-n", self.netns) if self.netns else ()), *words)

    @property
    def gateway(self) -> str:
        return f"10.99.{1 - self.number}.0"

    @property
    def network(self) -> str:
        return f"10.99.{1 - self.number}.0/24"

    @property
    def uplink(self) -> str:
        return "eth0" if self.netns else UPLINK


def mac(number: int) -> str:
    return f"0a:58:0a:63:0{number}:00"


def _ethernet(end: End, *kind: str) -> None:
    """A device with MAC addresses, and a gateway behind it whose own is known."""
    end.ip("link", "add", TUNNEL, "address", mac(end.number), *kind)
    end.ip("addr", "add", f"10.99.{end.number}.0/32", *_DEVICE)
    end.ip("link", "set", TUNNEL, "up")
    end.ip("route", "add", end.network, "via", end.gateway, *_DEVICE, "onlink")
    far = mac(1 - end.number)
    end.ip("neigh", "add", end.gateway, "lladdr", far, "nud", "permanent", *_DEVICE)


def _bare(end: End, *kind: str) -> None:
    """A device of IP packets only."""
    end.ip("link", "add", TUNNEL, *kind)
    end.ip("addr", "add", f"10.99.{end.number}.0/32", *_DEVICE)
    end.ip("link", "set", TUNNEL, "up")


def vxlan(end: End) -> None:
    """flannel, Cilium, Calico."""
    kind = ("type", "vxlan", "id", "1", "dstport", "8472", "nolearning", "dev", end.uplink)
    _ethernet(end, *kind)
    words = ("-n", end.netns) if end.netns else ()
    entry = ("fdb", "append", mac(1 - end.number), *_DEVICE, "dst", end.other)
    subprocess.run(["bridge", *words, *entry], check=True)


def geneve(end: End) -> None:
    """OVN-Kubernetes, Antrea."""
    _ethernet(end, "type", "geneve", "id", "1", "remote", end.other)


def gre(end: End) -> None:
    _bare(end, "type", "gre", "local", end.own, "remote", end.other)
    end.ip("route", "add", end.network, *_DEVICE)


def gretap(end: End) -> None:
    """Antrea."""
    _ethernet(end, "type", "gretap", "local", end.own, "remote", end.other)


def ipip(end: End) -> None:
    """Calico: one device for all nodes, each of which is a gateway."""
    _bare(end, "type", "ipip", "local", end.own)
    end.ip("route", "add", end.network, "via", end.other, *_DEVICE, "onlink")


def wireguard(end: End) -> None:
    """Calico, Cilium, flannel."""
    _bare(end, "type", "wireguard")
    private, public = _private_key(end.number), _public_key(1 - end.number)
    peer = ("peer", public, "allowed-ips", f"{end.network},{end.gateway}/32")
    at = ("endpoint", f"{end.other}:51820")
    command = ["wg", "set", TUNNEL, "listen-port", "51820", "private-key", "/proc/self/fd/0"]
    enter = ["nsenter", f"--net=/run/netns/{end.netns}"] if end.netns else []
    subprocess.run([*enter, *command, *peer, *at], input=private, text=True, check=True)
    end.ip("route", "add", end.network, *_DEVICE)


def _private_key(number: int) -> str:
    return base64.b64encode(bytes([number + 1]) * 32).decode()


def _public_key(number: int) -> str:
    done = subprocess.run(
        ["wg", "pubkey"], input=_private_key(number), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@dataclass(frozen=True)
class Overlay(Bridge):
    """A bridge on each node; ``build`` makes an end of the tunnel between them."""

    interfaces: str = f"veth*,{UPLINK},{TUNNEL}"
    uplinks: tuple[str, ...] = (UPLINK,)
    build: Callable[[End], None] = vxlan
    refused: str = "it is a tunnel (vxlan)"
    outer_port: str = "8472"  # of the packets between the nodes

    def prepare(self, lab: Lab) -> None:
        super().prepare(lab)
        ip("-n", lab.world, "route", "del", POD_NETWORK[4])
        self.build(End(lab, "", 0, NODE[4], WORLD[4]))
        self.build(End(lab, lab.world, 1, WORLD[4], NODE[4]))
        for address in (OTHER_POD, OTHER_STRAY):
            ip("-n", lab.world, "addr", "add", f"{address}/32", "dev", "lo")


OVERLAYS = {
    "VXLAN": Overlay(),
    "Geneve": Overlay(
        modules=("geneve",), build=geneve, refused="it is a tunnel (geneve)", outer_port="6081"
    ),
    "WireGuard": Overlay(
        modules=("wireguard",),
        build=wireguard,
        refused="its frames have no Ethernet header (kind wireguard)",
        outer_port="51820",
    ),
    "IPIP": Overlay(
        modules=("ipip",),
        build=ipip,
        refused="its frames have no Ethernet header (kind ipip)",
        outer_port="",
    ),
    "GRE": Overlay(
        modules=("ip_gre",),
        build=gre,
        refused="its frames have no Ethernet header (kind gre)",
        outer_port="",
    ),
    "GRE with Ethernet": Overlay(
        modules=("ip_gre",), build=gretap, refused="it is a tunnel (gretap)", outer_port=""
    ),
}

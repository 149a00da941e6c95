# SPDX-License-Identifier: Apache-2.0
"""Nodes whose uplink is no plain card, and is watched: a VLAN, a bond, a card in a VRF."""

import json
from dataclasses import dataclass

from tests.e2e.pods import ip
from tests.networks.lab import UPLINK, WORLD, Lab, Member
from tests.networks.shapes import PointToPoint, wire

CARDS = ("card0", "card1")
VRF, VRF_TABLE = "blue", "10"


@dataclass(frozen=True)
class Watched(PointToPoint):
    """``interfaces`` names the uplink as well."""

    interfaces: str = f"veth*,{UPLINK}"
    uplinks: tuple[str, ...] = (UPLINK,)


@dataclass(frozen=True)
class Vlan(Watched):
    modules: tuple[str, ...] = ("8021q",)

    def connect(self, lab: Lab) -> None:
        wire(lab, CARDS[0], CARDS[0])
        for words, name in (((), UPLINK), (("-n", lab.world), "eth0")):
            ip(*words, "link", "set", CARDS[0], "up")
            ip(*words, "link", "add", "link", CARDS[0], "name", name, "type", "vlan", "id", "5")


@dataclass(frozen=True)
class Bond(Watched):
    """Both ends are bonds, as with LACP; in ``active-backup`` the other one is a switch."""

    mode: str = "802.3ad"
    modules: tuple[str, ...] = ("bonding",)
    uplinks: tuple[str, ...] = CARDS

    def connect(self, lab: Lab) -> None:
        bond = ("type", "bond", "mode", self.mode, "miimon", "100")
        there = ("type", "bridge") if self.mode == "active-backup" else bond
        for words, name, kind in (((), UPLINK, bond), (("-n", lab.world), "eth0", there)):
            ip(*words, "link", "add", name, *kind)
        for card in CARDS:
            wire(lab, card, card)
            for words, name in (((), UPLINK), (("-n", lab.world), "eth0")):
                ip(*words, "link", "set", card, "master", name)
                ip(*words, "link", "set", card, "up")


@dataclass(frozen=True)
class VlanOnBond(Bond):
    """Both are named: the VLAN's frames are those of the bond, and the bond's those of its cards."""

    interfaces: str = f"veth*,bond0,{UPLINK}"
    modules: tuple[str, ...] = ("bonding", "8021q")

    def connect(self, lab: Lab) -> None:
        super().connect(lab)
        for words, name in (((), UPLINK), (("-n", lab.world), "eth0")):
            ip(*words, "link", "set", name, "name", "bond0")
            ip(*words, "link", "set", "bond0", "up")
            ip(*words, "link", "add", "link", "bond0", "name", name, "type", "vlan", "id", "5")


@dataclass(frozen=True)
class Vrf(Watched):
    """The card, its addresses and its routes belong to a VRF, into which the pods' are leaked."""

    modules: tuple[str, ...] = ("vrf",)

    def connect(self, lab: Lab) -> None:
        super().connect(lab)
        ip("link", "add", VRF, "type", "vrf", "table", VRF_TABLE)
        ip("link", "set", VRF, "up")
        ip("link", "set", UPLINK, "master", VRF)

    def prepare(self, lab: Lab) -> None:
        super().prepare(lab)
        ip("route", "add", "default", "via", WORLD[4], "dev", UPLINK, "table", VRF_TABLE)

    def plug(self, lab: Lab, pod: Member) -> None:
        super().plug(lab, pod)
        ip("route", "add", pod.route(4), "dev", pod.link, "table", VRF_TABLE)


@dataclass(frozen=True)
class Netkit(PointToPoint):
    """Cilium's pairs since 1.16, without its redirection."""

    prefix: str = "lxc"
    interfaces: str = "lxc*"
    modules: tuple[str, ...] = ("netkit",)

    def join(self, pod: Member) -> None:
        ip("link", "add", pod.link, "type", "netkit")
        (peer,) = [
            link["ifname"]
            for link in json.loads(ip("-j", "link", "show"))
            if link.get("link") == pod.link
        ]
        ip("link", "set", peer, "netns", pod.netns, "name", "eth0")

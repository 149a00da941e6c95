"""Gathers what the sources say of each interface, and makes the table of names from it.

Sources, the stronger first: the configuration's ``endpoints``, the name of the
network namespace, the cgroup of a process in it. An endpoint's addresses stay its
own for a while after it has gone, so that flows read late are still named; an
address that somebody else takes is the new one's at once.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from podtally.config import StaticEndpoint
from podtally.identity import cgroups, table
from podtally.identity.model import UNKNOWN, Endpoint, Peer, peer_of

REMEMBER_NS = 60_000_000_000  # how long addresses outlive their endpoint


@dataclass(frozen=True)
class Resident:
    """What is known of the other side of one watched interface."""

    ifindex: int
    interface: str
    host: bool = False
    netns: str = ""
    found: cgroups.Found | None = None
    addresses: tuple[str, ...] = ()
    since: int = 0  # the higher, the later it got its addresses
    gone_ns: int = 0


class Directory:
    """Mutable; lives in the agent's main thread. ``names`` is the current table."""

    def __init__(
        self, endpoints: Iterable[StaticEndpoint], networks: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._static = tuple(endpoints)
        self._networks = dict(networks)
        self._residents: dict[int, Resident] = {}
        self._host: frozenset[str] = frozenset()
        self._changes = 0
        self._stale = True
        self.names = table.build({}, (), self._networks)

    def appeared(self, ifindex: int, interface: str, netns: str, host: bool) -> None:
        known = self._residents.get(ifindex)
        if known is not None and (known.interface, known.netns) == (interface, netns):
            self._put(replace(known, gone_ns=0))  # as the checkpoint remembers it
        else:
            self._put(Resident(ifindex, interface, host, netns))

    def residents(self) -> list[Resident]:
        """For the checkpoint: names must outlive the agent, as flows do."""
        return list(self._residents.values())

    def restore(self, residents: Iterable[Resident]) -> None:
        for resident in residents:
            self._put(resident)
            self._changes = max(self._changes, resident.since)

    def renamed(self, ifindex: int, interface: str) -> None:
        self._change(ifindex, interface=interface)

    def netns_named(self, ifindex: int, netns: str) -> None:
        self._change(ifindex, netns=netns)

    def process_found(self, ifindex: int, found: cgroups.Found) -> None:
        self._change(ifindex, found=found)

    def addresses_changed(self, ifindex: int, addresses: Iterable[bytes]) -> None:
        self._changes += 1
        texts = tuple(_text(address) for address in addresses)
        self._change(ifindex, addresses=texts, since=self._changes)

    def gone(self, ifindex: int, now_ns: int) -> None:
        self._change(ifindex, gone_ns=now_ns)

    def host_addresses(self, addresses: Iterable[str]) -> None:
        fresh = frozenset(addresses)
        self._stale |= fresh != self._host
        self._host = fresh

    def unnamed(self) -> list[int]:
        """Interfaces of which nothing but the interface is known."""
        return [r.ifindex for r in self._residents.values() if self._endpoint(r) is None]

    def refresh(self, now_ns: int) -> bool:
        """Rebuild ``names`` if anything has changed; True if so."""
        outlived = [
            i for i, r in self._residents.items() if r.gone_ns and now_ns - r.gone_ns > REMEMBER_NS
        ]
        for ifindex in outlived:
            del self._residents[ifindex]
        if not (self._stale or outlived):
            return False
        self._stale = False
        endpoints = {
            r.ifindex: endpoint
            for r in self._residents.values()
            if (endpoint := self._endpoint(r)) is not None
        }
        self.names = table.build(endpoints, self._addresses(endpoints), self._networks)
        return True

    def _addresses(self, endpoints: Mapping[int, Endpoint]) -> list[tuple[str, Peer]]:
        """Later entries win: the living over the gone, the newer over the older."""
        listed = [(text, Peer("host", "", "host", "node")) for text in sorted(self._host)]
        in_order = sorted(self._residents.values(), key=lambda r: (not r.gone_ns, r.since))
        for resident in in_order:
            endpoint = endpoints.get(resident.ifindex)
            if endpoint is not None:
                listed += [(text, peer_of(endpoint)) for text in resident.addresses]
        listed += [(s.address, peer_of(_static_endpoint(s))) for s in self._static if s.address]
        return listed

    def _endpoint(self, resident: Resident) -> Endpoint | None:
        for entry in self._static:
            if (
                entry.interface == resident.interface
                or (entry.netns and entry.netns == resident.netns)
                or (entry.address and entry.address in resident.addresses)
            ):
                return _static_endpoint(entry)
        if resident.netns:
            return Endpoint("netns", resident.netns, resident.netns, "Netns", "netns")
        if resident.found is not None:
            return _found_endpoint(resident.found)
        if resident.host:
            return Endpoint("host", "host", "host", "Host", "host")
        return None

    def _put(self, resident: Resident) -> None:
        self._residents[resident.ifindex] = resident
        self._stale = True

    def _change(self, ifindex: int, **facts: object) -> None:
        resident = self._residents.get(ifindex)
        if resident is not None:
            self._put(replace(resident, **facts))  # type: ignore[arg-type]


def _text(address: bytes) -> str:
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def _static_endpoint(entry: StaticEndpoint) -> Endpoint:
    return Endpoint(
        entry.namespace,
        entry.name,
        entry.workload or entry.name,
        entry.workload_kind or "Static",
        "static",
        tuple(sorted(entry.labels.items())),
    )


def _found_endpoint(found: cgroups.Found) -> Endpoint:
    if found.kind == "pod":  # all that a cgroup tells of a pod is its UID
        return Endpoint(UNKNOWN, found.name, UNKNOWN, UNKNOWN, "pod")
    return Endpoint(found.kind, found.name, found.name, found.kind.capitalize(), found.kind)

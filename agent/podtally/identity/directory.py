# SPDX-License-Identifier: Apache-2.0
"""Gathers what the sources say of each interface, socket and address, and makes the table of names.

Of an interface, the stronger first: the configuration's ``endpoints``; the pod that a
process in its namespace is of, by UID, as the API, the container runtime or the pods'
logs name it; the name that somebody gave to the namespace; a container, a systemd unit.
Until a name is there, and for as long as one may still come, the endpoint is not final.
"""

import re
import time
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import replace
from typing import NamedTuple

from podtally.config import StaticEndpoint
from podtally.identity import address_claims, name_table
from podtally.identity.address_claims import AddressClaims, ApiEvidence
from podtally.identity.addresses import ClaimBook
from podtally.identity.claims import FACT
from podtally.identity.cluster.state import NODE_STRENGTH, Clocks, ClusterState
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.downtime import Downtime
from podtally.identity.interface_endpoints import (
    InterfaceEndpoint,
    address_number,
    address_text,
    static_endpoint,
)
from podtally.identity.model import (
    FOREVER,
    UNKNOWN,
    UNKNOWN_ENDPOINT,
    Claim,
    Endpoint,
    Owner,
    host_owner,
    owner_of,
)
from podtally.identity.services import NO_SERVICES, Services
from podtally.kube.model import ApiEvent
from podtally.netlink.model import AddressesChanged
from podtally.runtimes.cgroups import CgroupOwner

REMEMBER_NS = 60_000_000_000  # residents that have gone, for flows that are read late
HISTORY_NS = 900_000_000_000  # how long one can ask who had an address
SETTLE_NS = 2_000_000_000  # the first process may be a runtime's own, and a name follows soon
WAIT_STEP_NS = 250_000_000  # how often names that may still come are asked for
MOST_SOCKETS = 4096  # cgroups of the host whose sockets are remembered
TICK_NS = 10_000_000  # how much earlier the coarse clock may be (CONFIG_HZ=100)
_STATIC = FACT + 10
# What runtimes call the namespaces that they make: cni-UUID (containerd), UUID (CRI-O),
# netns-UUID (podman). That names nobody.
_MADE_UP = re.compile(r"(?:[a-z]+-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOST = Endpoint("host", "host", "host", "Host", "host", ports=(), host_network=True)


class _Socket(NamedTuple):
    """Who has sockets under one cgroup; and since when a name is waited for, 0 if none is."""

    found: CgroupOwner | None
    since_ns: int


class Directory:
    """Mutable; lives in the agent's main thread. ``names`` is the current table."""

    def __init__(
        self,
        endpoints: Iterable[StaticEndpoint],
        networks: Mapping[str, tuple[str, ...]],
        patience_ns: int = 10_000_000_000,
        cluster: ClusterState | None = None,
    ) -> None:
        self._static = tuple(endpoints)
        self._declared = dict(networks)
        self._pod_networks: frozenset[str] = frozenset()
        self._cluster_unknown = cluster is not None
        self._networks = name_table.build_networks(networks, (), self._cluster_unknown)
        self._patience_ns = patience_ns
        self.cluster = cluster
        self._node = self.cluster_labels().node_name
        self._host = _HOST._replace(node=self._node)
        self.book = ClaimBook(self._networks.owners)
        self._residents: dict[int, InterfaceEndpoint] = {}
        self._sockets: dict[int, _Socket] = {}
        self._named: dict[str, Endpoint] = {}  # by the UID of a pod, or a container's id
        self._addresses = AddressClaims()
        self._restored: frozenset[int] | None = None  # None: nothing is remembered
        self._dark = Downtime()
        self._waits_until = FOREVER
        self._stale = True
        self._claim_static()
        self.names = name_table.build_names({}, {}, self.book.table(), self._networks)

    # -- what the sources say -----------------------------------------------------------

    def appeared(self, ifindex: int, interface: str, netns: str, host: bool, at_ns: int) -> None:
        known = self._residents.get(ifindex)
        if known is not None and (known.interface, known.netns) == (interface, netns):
            self._put(replace(known, gone_ns=0))  # as the checkpoint remembers it
        else:
            self._put(InterfaceEndpoint(ifindex, interface, host, netns, appeared_ns=at_ns))

    def renamed(self, ifindex: int, interface: str) -> None:
        self._change(ifindex, interface=interface)

    def netns_named(self, ifindex: int, netns: str) -> None:
        self._change(ifindex, netns=netns)

    def process_found(self, ifindex: int, found: CgroupOwner) -> None:
        self._change(ifindex, found=found)

    def named(self, key: str, endpoint: Endpoint) -> None:
        """A source has a name for a pod, by UID, or for a container, by its whole id."""
        # Only of a pod is there anybody who could tell more of its ports.
        ports = endpoint.ports if endpoint.uid else ()
        endpoint = endpoint._replace(node=self._node, ports=ports)
        self._stale |= self._named.get(key) != endpoint
        self._named[key] = endpoint

    def apply_api_event(self, event: ApiEvent, clocks: Clocks) -> None:
        """What the Kubernetes API has told; only where there is a ``cluster``."""
        assert self.cluster is not None
        self.cluster.apply(event, clocks)
        self._stale |= event.resource in ("pods", "jobs")

    def socket_found(self, cgroup: int, found: CgroupOwner | None, now_ns: int) -> None:
        """What the path of a cgroup says; None: that it is the host's own."""
        may_be_named = found is not None and (found.kind == "pod" or found.container)
        self._sockets[cgroup] = _Socket(found, now_ns if may_be_named else 0)
        if len(self._sockets) > MOST_SOCKETS:
            del self._sockets[next(iter(self._sockets))]
        self._stale = True

    def addresses_changed(self, ifindex: int, addresses: Iterable[bytes], at_ns: int) -> None:
        """Take in what an endpoint has, all of which is routed to it."""
        self.apply_addresses(AddressesChanged(ifindex, tuple(addresses), at_ns))

    def apply_addresses(self, event: AddressesChanged) -> None:
        """Take in which addresses are configured behind an interface."""
        ifindex, at_ns = event.ifindex, event.at_ns
        resident = self._residents.get(ifindex)
        if resident is None:
            return
        now = address_claims.with_addresses(resident, event)
        new = now.current() - resident.current()
        after_dark = self._dark.reaches(at_ns)
        others = (each for each in self._residents.values() if each.ifindex != ifindex)
        self._addresses.began(new, others, at_ns, after_dark)
        if after_dark and not resident.host:
            self._doubt(self._dark.doubt(map(address_number, new)))
        self._put(now)

    def observed(self, ifindex: int, address: bytes, at_ns: int) -> None:
        """A packet of its own proves that an endpoint had an address by then."""
        resident, written = self._residents.get(ifindex), address_text(address)
        if resident is None or not resident.has(written):
            return
        mine = (each for each in resident.addresses if each.address == written and each.routed)
        *before, last = mine
        from_ns = at_ns - TICK_NS
        if from_ns >= last.from_ns or (before and from_ns < before[-1].until_ns):
            return
        others = tuple(each for each in resident.addresses if each != last)
        self._put(replace(resident, addresses=(*others, last._replace(from_ns=from_ns))))

    def contested(self) -> list[str]:
        """Addresses that had another owner a moment ago: the time of hearing is not enough."""
        return list(self._addresses.contested)

    def gone(self, ifindex: int, at_ns: int) -> None:
        resident = self._residents.get(ifindex)
        if resident is not None:
            held = tuple(
                each._replace(until_ns=min(each.until_ns, at_ns)) for each in resident.addresses
            )
            self._put(replace(resident, gone_ns=at_ns, addresses=held))

    def host_addresses(self, addresses: Iterable[str]) -> None:
        owner = host_owner(self._node)
        self._addresses.host = frozenset(map(address_number, addresses))
        claims = [Claim(a, owner, 0, strength=NODE_STRENGTH) for a in self._addresses.host]
        self.book.put("host", claims)
        self._stale = True

    # -- what the agent asks --------------------------------------------------------------

    def residents(self) -> list[InterfaceEndpoint]:
        """For the checkpoint: names must outlive the agent, as flows do."""
        return list(self._residents.values())

    def restore(self, residents: Iterable[InterfaceEndpoint], known_ns: int) -> None:
        """Take back what ``residents`` gave, which was true at ``known_ns``."""
        for resident in residents:
            self._put(resident)
        self._restored = frozenset(self._residents)
        self._dark.from_ns = known_ns

    def looked(self, there: Container[int], now_ns: int) -> None:
        """After ``restore``, and a first look at which interfaces are there.

        Who is not there any more went at some time when nobody looked, and so may others
        have come and gone that had his address. Who came meanwhile has his since some time,
        and another may have had it before. Who is there, and was before, had his all the time.
        """
        if self._restored is None:
            return
        dark = set()
        for ifindex, resident in list(self._residents.items()):
            if ifindex in self._restored and not resident.gone_ns and ifindex not in there:
                self.gone(ifindex, self._dark.from_ns)
            if not resident.host:
                dark |= {held.address for held in resident.addresses}
        self._addresses.contested |= dict.fromkeys(dark, now_ns)
        self._dark.until_ns = now_ns
        self._doubt(self._dark.doubt(map(address_number, dark)))

    def unnamed(self) -> list[int]:
        """Interfaces that are there, and of which nobody knows whose they are."""
        return [
            i
            for i, r in self._residents.items()
            if not r.gone_ns and self.names.endpoint(i).namespace == UNKNOWN
        ]

    def refresh(self, now_ns: int) -> bool:
        """Rebuild ``names`` if anything has changed; True if so."""
        self._forget(now_ns)
        self._ask_cluster(now_ns)
        if not self._stale and now_ns < self._waits_until:
            return False
        self._stale = False
        self._waits_until = FOREVER
        endpoints = {}
        here = {each.found.name for each in self._residents.values() if each.found}
        for resident in list(self._residents.values()):
            endpoint = endpoints[resident.ifindex] = self._endpoint(resident, now_ns)
            if not resident.host:
                self._claim_addresses(resident, owner_of(endpoint), here, now_ns)
        unsettled, until_ns = self._addresses.unsettled(self._residents.values(), now_ns)
        self.book.put("unsettled", unsettled)
        self._waits_until = min(self._waits_until, until_ns)
        sockets = {
            cgroup: self._of_socket(socket, now_ns) for cgroup, socket in self._sockets.items()
        }
        if not all(each.final for each in (*endpoints.values(), *sockets.values())):
            self._waits_until = min(self._waits_until, now_ns + WAIT_STEP_NS)
        self.names = name_table.build_names(endpoints, sockets, self.book.table(), self._networks)
        return True

    def _claim_addresses(
        self, resident: InterfaceEndpoint, owner: Owner, here: Set[str], now_ns: int
    ) -> None:
        """Put what the addresses behind an interface make of its endpoint into the book."""
        confirmed: Set[int] = frozenset()
        if self.cluster is not None:
            if resident.found is not None and resident.found.kind == "pod":
                confirmed = self.cluster.addresses_of_pod(resident.found.name)
            self._waits_until = min(self._waits_until, address_claims.next_due(resident, now_ns))
        told = ApiEvidence(confirmed, here, self.book.claimed if self.cluster else None)
        claims = self._addresses.claims(resident, owner, told, now_ns)
        self.book.put(("link", resident.ifindex), claims)

    def services(self) -> Services:
        return NO_SERVICES if self.cluster is None else self.cluster.services()

    def cluster_labels(self) -> ClusterLabels:
        """The same object until something of it changes."""
        return NO_CLUSTER_LABELS if self.cluster is None else self.cluster.cluster_labels()

    def _ask_cluster(self, now_ns: int) -> None:
        if self.cluster is not None:
            self.cluster.settle(Clocks(time.time_ns(), now_ns))
            for key, claims in self.cluster.changed_claims():
                self.book.put(key, claims)
                self._doubt(self._dark.mark_pods_disputed(claims))
                self._stale = True
            networks, unknown = self.cluster.pod_networks(), not self.cluster.synced
            if (networks, unknown) != (self._pod_networks, self._cluster_unknown):
                self._pod_networks, self._cluster_unknown = networks, unknown
                self._networks = name_table.build_networks(self._declared, networks, unknown)
                self._stale = True

    # -- who it is ------------------------------------------------------------------------

    def _endpoint(self, resident: InterfaceEndpoint, now_ns: int) -> Endpoint:
        for entry in self._static:
            if (
                entry.interface == resident.interface
                or (entry.netns and entry.netns == resident.netns)
                or (entry.address and resident.has(entry.address))
            ):
                static = static_endpoint(entry, self._node)
                return static._replace(host_network=resident.host)
        found, since_ns = resident.found, resident.appeared_ns
        if resident.host:
            return self._host
        if found is not None and found.kind == "pod":
            return self._pod(resident, now_ns)
        if resident.netns and not _MADE_UP.fullmatch(resident.netns):
            return self._without_ports("netns", resident.netns)
        endpoint = self._of_process(found, since_ns, now_ns)
        if endpoint is not None:
            return endpoint
        return UNKNOWN_ENDPOINT._replace(final=self._over(since_ns + self._patience_ns, now_ns))

    def _pod(self, resident: InterfaceEndpoint, now_ns: int) -> Endpoint:
        """By UID; what was called by a name once keeps it, whatever the sources forget."""
        assert resident.found is not None
        endpoint = (
            self._of_process(resident.found, resident.appeared_ns, now_ns) or UNKNOWN_ENDPOINT
        )
        named = resident.named
        if named is not None and (
            endpoint.namespace == UNKNOWN
            or (named.source == "kubernetes" and endpoint.source != "kubernetes")
        ):
            return named._replace(node=self._node)
        if endpoint.final and endpoint.namespace != UNKNOWN and endpoint != resident.named:
            self._residents[resident.ifindex] = replace(resident, named=endpoint)
        return endpoint

    def _of_socket(self, socket: _Socket, now_ns: int) -> Endpoint:
        endpoint = self._of_process(socket.found, socket.since_ns, now_ns) or self._host
        if endpoint.source == "kubernetes":  # which tells itself what network it is in
            return endpoint
        return endpoint._replace(host_network=True)

    def _of_process(self, found: CgroupOwner | None, since_ns: int, now_ns: int) -> Endpoint | None:
        if found is None:
            return None
        if found.kind != "pod":
            known = self._named.get(found.container)
            if known is not None:
                return known
            final = self._over(since_ns + SETTLE_NS, now_ns)
            return self._without_ports(found.kind, found.name)._replace(final=final)
        if self.cluster is not None:
            endpoint = self.cluster.endpoint(found.name)
            if endpoint is not None:
                return endpoint
        over = self._over(since_ns + self._patience_ns, now_ns)
        known = self._named.get(found.name) or self._named.get(found.container)
        if known is not None:
            return self._as_far_as_known(known)._replace(final=self.cluster is None or over)
        return UNKNOWN_ENDPOINT._replace(source="pod", uid=found.name, final=over, node=self._node)

    def _as_far_as_known(self, pod: Endpoint) -> Endpoint:
        """Without the API that is asked a pod's name does not tell whose pod it is."""
        if self.cluster is None or self.cluster.synced or pod.workload_kind != "Pod":
            return pod
        return pod._replace(workload=UNKNOWN, workload_kind=UNKNOWN)

    def _without_ports(self, kind: str, name: str) -> Endpoint:
        """What is no pod has no ports by name."""
        return Endpoint(kind, name, name, kind.capitalize(), kind, node=self._node, ports=())

    def _over(self, deadline_ns: int, now_ns: int) -> bool:
        """Whether a wait is over; if not, the table is made again when it is."""
        if now_ns >= deadline_ns:
            return True
        self._waits_until = min(self._waits_until, deadline_ns)
        return False

    # -- housekeeping -----------------------------------------------------------------------

    def _forget(self, now_ns: int) -> None:
        before_ns = now_ns - max(REMEMBER_NS, 2 * self._patience_ns)  # flows may wait for it
        for ifindex, resident in list(self._residents.items()):
            if any(held.until_ns < before_ns for held in resident.addresses):
                kept = tuple(held for held in resident.addresses if held.until_ns >= before_ns)
                self._put(replace(resident, addresses=kept))
            if resident.gone_ns and resident.gone_ns < before_ns:
                del self._residents[ifindex]
                self._stale = True
                if resident.found is not None:
                    self._named.pop(resident.found.name, None)
                    self._named.pop(resident.found.container, None)
        self._addresses.forget(now_ns)
        self.book.forget(now_ns - HISTORY_NS)

    def _claim_static(self) -> None:
        claims = [
            Claim(
                address_number(s.address),
                owner_of(static_endpoint(s, self._node)),
                0,
                strength=_STATIC,
            )
            for s in self._static
            if s.address
        ]
        self.book.put("static", claims)

    def _doubt(self, more: bool) -> None:
        """Claim that of the dark nobody can tell, if more addresses are in doubt by now."""
        if more:
            self.book.put("dark", self._dark.claims())
            self._stale = True

    def _put(self, resident: InterfaceEndpoint) -> None:
        self._residents[resident.ifindex] = resident
        self._stale = True

    def _change(self, ifindex: int, **facts: object) -> None:
        resident = self._residents.get(ifindex)
        if resident is not None:
            self._put(replace(resident, **facts))  # type: ignore[arg-type]

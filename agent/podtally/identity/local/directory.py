# SPDX-License-Identifier: Apache-2.0
"""Collects what the sources report of interfaces, sockets and addresses, and makes the name table.

``endpoint_names`` names the endpoints; ``address_claims`` decides which addresses they have.
"""

import time
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import replace

from podtally.config import StaticEndpoint
from podtally.identity import name_table
from podtally.identity.addresses import ClaimBook
from podtally.identity.claims import FACT
from podtally.identity.cluster.removed_links import links_of_pods
from podtally.identity.cluster.state import NODE_STRENGTH, Clocks, ClusterState
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.downtime import Downtime
from podtally.identity.interface_endpoints import (
    InterfaceEndpoint,
    address_number,
    address_text,
    static_endpoint,
)
from podtally.identity.local import address_claims
from podtally.identity.local.address_claims import AddressClaims, ApiEvidence
from podtally.identity.local.endpoint_names import EndpointNames, HostSocket
from podtally.identity.model import FOREVER, UNKNOWN, Claim, Endpoint, Owner, host_owner, owner_of
from podtally.identity.services import NO_SERVICES, Services
from podtally.kube.model import ApiEvent
from podtally.netlink.model import AddressesChanged
from podtally.runtimes.cgroups import CgroupOwner

REMEMBER_NS = 60_000_000_000  # keep removed interfaces for flows that are read late
HISTORY_NS = 300_000_000_000  # how far back look-ups of an address may ask
WAIT_STEP_NS = 250_000_000  # how often to retry names that may still come
MAX_SOCKETS = 4096  # remembered cgroups of host sockets
TICK_NS = 10_000_000  # the coarse clock may be this much behind (CONFIG_HZ=100)
_STATIC_STRENGTH = FACT + 10


class Directory:
    """All that is known of names, in the agent's main thread; ``names`` is the current table."""

    def __init__(
        self,
        endpoints: Iterable[StaticEndpoint],
        networks: Mapping[str, tuple[str, ...]],
        name_timeout_ns: int = 10_000_000_000,
        cluster: ClusterState | None = None,
    ) -> None:
        self.cluster = cluster
        self._node = self.cluster_labels().node_name
        static = tuple(endpoints)
        self._endpoint_names = EndpointNames(static, self._node, cluster, name_timeout_ns)
        self._name_timeout_ns = name_timeout_ns
        self._configured_networks = dict(networks)
        self._pod_networks: frozenset[str] = frozenset()
        self._cluster_unknown = cluster is not None
        self._networks = name_table.build_networks(networks, (), self._cluster_unknown)
        self.book = ClaimBook(self._networks.owners)
        self._interfaces: dict[int, InterfaceEndpoint] = {}
        self._sockets: dict[int, HostSocket] = {}
        self._addresses = AddressClaims()
        self._restored: frozenset[int] | None = None  # None: there was no checkpoint
        self._downtime = Downtime()
        self._recheck_ns = FOREVER
        self._stale = True
        self._claim_static(static)
        self.names = name_table.build_names({}, {}, self.book.table(), self._networks)

    # -- input from the sources ---------------------------------------------------------

    def appeared(self, ifindex: int, interface: str, netns: str, host: bool, at_ns: int) -> None:
        known = self._interfaces.get(ifindex)
        if known is not None and (known.interface, known.netns) == (interface, netns):
            self._put(replace(known, gone_ns=0, removed=False))  # restored from the checkpoint
        else:
            self._put(InterfaceEndpoint(ifindex, interface, host, netns, appeared_ns=at_ns))

    def renamed(self, ifindex: int, interface: str) -> None:
        self._change(ifindex, interface=interface)

    def netns_named(self, ifindex: int, netns: str) -> None:
        self._change(ifindex, netns=netns)

    def process_found(self, ifindex: int, owner: CgroupOwner) -> None:
        self._change(ifindex, owner=owner)

    def named(self, key: str, endpoint: Endpoint) -> None:
        """Take the name of a pod, by UID, or of a container, by its full id."""
        self._stale |= self._endpoint_names.put(key, endpoint)

    def apply_api_event(self, event: ApiEvent, clocks: Clocks) -> None:
        """Apply an event of the Kubernetes API; requires a ``cluster``."""
        assert self.cluster is not None
        self.cluster.apply(event, clocks)
        self._stale |= event.resource in ("pods", "jobs")

    def socket_found(self, cgroup: int, owner: CgroupOwner | None, now_ns: int) -> None:
        """Take the owner of host sockets under a cgroup; None: the host itself."""
        may_be_named = owner is not None and (owner.kind == "pod" or owner.container)
        self._sockets[cgroup] = HostSocket(owner, now_ns if may_be_named else 0)
        if len(self._sockets) > MAX_SOCKETS:
            del self._sockets[next(iter(self._sockets))]
        self._stale = True

    def apply_addresses(self, event: AddressesChanged) -> None:
        """Take the addresses that are configured behind an interface."""
        ifindex, at_ns = event.ifindex, event.at_ns
        interface = self._interfaces.get(ifindex)
        if interface is None:
            return
        now = address_claims.with_addresses(interface, event)
        new = now.current() - interface.current()
        after_downtime = self._downtime.reaches(at_ns)
        others = (each for each in self._interfaces.values() if each.ifindex != ifindex)
        self._addresses.add(new, others, at_ns, after_downtime)
        if after_downtime and not interface.host:
            self._claim_downtime(self._downtime.mark_disputed(map(address_number, new)))
        self._put(now)

    def observed(self, ifindex: int, address: bytes, at_ns: int) -> None:
        """Note that a packet proves that an endpoint had an address at ``at_ns``."""
        interface, text = self._interfaces.get(ifindex), address_text(address)
        if interface is None or not interface.has(text):
            return
        *before, last = (a for a in interface.addresses if a.address == text and a.routed)
        from_ns = at_ns - TICK_NS
        if from_ns >= last.from_ns or (before and from_ns < before[-1].until_ns):
            return
        others = tuple(each for each in interface.addresses if each != last)
        self._put(replace(interface, addresses=(*others, last._replace(from_ns=from_ns))))

    def gone(self, ifindex: int, at_ns: int, removed: bool = False) -> None:
        """Note that an interface is no longer watched; ``removed``: the kernel removed it."""
        interface = self._interfaces.get(ifindex)
        if interface is not None:
            ended = tuple(
                each._replace(until_ns=min(each.until_ns, at_ns)) for each in interface.addresses
            )
            self._put(replace(interface, gone_ns=at_ns, addresses=ended, removed=removed))

    def host_addresses(self, addresses: Iterable[str]) -> None:
        """Take the host's own addresses."""
        owner = host_owner(self._node)
        self._addresses.host = frozenset(map(address_number, addresses))
        claims = [Claim(a, owner, 0, strength=NODE_STRENGTH) for a in self._addresses.host]
        self.book.put("host", claims)
        self._stale = True

    # -- restart ------------------------------------------------------------------------

    def restore(self, interfaces: Iterable[InterfaceEndpoint], known_ns: int) -> None:
        """Take back the ``interface_endpoints`` of a checkpoint, known up to ``known_ns``."""
        for interface in interfaces:
            self._put(interface)
        self._restored = frozenset(self._interfaces)
        self._downtime.from_ns = known_ns

    def interfaces_listed(self, present: Container[int], now_ns: int) -> None:
        """End the downtime: after ``restore``, the first list of interfaces is complete.

        An interface that is missing went at an unknown time, and others with its addresses may
        have come and gone. One that is new has its addresses since an unknown time; another may
        have had them before. One that was there before had its addresses all the time.
        """
        if self._restored is None:
            return
        disputed = set()
        for ifindex, interface in list(self._interfaces.items()):
            if ifindex in self._restored and not interface.gone_ns and ifindex not in present:
                self.gone(ifindex, self._downtime.from_ns)
            if not interface.host:
                disputed |= {span.address for span in interface.addresses}
        self._addresses.contested |= dict.fromkeys(disputed, now_ns)
        self._downtime.until_ns = now_ns
        self._claim_downtime(self._downtime.mark_disputed(map(address_number, disputed)))

    # -- output -------------------------------------------------------------------------

    def interface_endpoints(self) -> list[InterfaceEndpoint]:
        """Return all known interfaces, for the checkpoint: names must outlive the agent."""
        return list(self._interfaces.values())

    def contested(self) -> list[str]:
        """Return addresses that had another owner a moment ago: event times are too coarse."""
        return list(self._addresses.contested)

    def unnamed(self) -> list[int]:
        """Return the present interfaces without a known owner."""
        return [
            i
            for i, interface in self._interfaces.items()
            if not interface.gone_ns and self.names.endpoint(i).namespace == UNKNOWN
        ]

    def services(self) -> Services:
        return NO_SERVICES if self.cluster is None else self.cluster.services()

    def cluster_labels(self) -> ClusterLabels:
        """Return the labels of namespaces and nodes; the same object until one changes."""
        return NO_CLUSTER_LABELS if self.cluster is None else self.cluster.cluster_labels()

    def refresh(self, now_ns: int) -> bool:
        """Rebuild ``names`` if anything has changed; return whether it has."""
        self._forget(now_ns)
        self._take_cluster_claims(now_ns)
        if not self._stale and now_ns < self._recheck_ns:
            return False
        self._stale = False
        self._endpoint_names.begin(now_ns)
        endpoints, recheck_ns = self._name_interfaces(now_ns)
        unsettled, until_ns = self._addresses.unsettled(self._interfaces.values(), now_ns)
        self.book.put("unsettled", unsettled)
        sockets = {
            cgroup: self._endpoint_names.of_socket(socket)
            for cgroup, socket in self._sockets.items()
        }
        self._recheck_ns = min(recheck_ns, until_ns, self._endpoint_names.recheck_ns)
        if not all(each.final for each in (*endpoints.values(), *sockets.values())):
            self._recheck_ns = min(self._recheck_ns, now_ns + WAIT_STEP_NS)
        self.names = name_table.build_names(endpoints, sockets, self.book.table(), self._networks)
        return True

    def _name_interfaces(self, now_ns: int) -> tuple[dict[int, Endpoint], int]:
        """Name all interfaces and claim their addresses; return when to check claims again."""
        endpoints, recheck_ns = {}, FOREVER
        uids = {each.owner.name for each in self._interfaces.values() if each.owner}
        for ifindex, interface in list(self._interfaces.items()):
            name = self._endpoint_names.of_interface(interface)
            endpoints[ifindex] = name.endpoint
            if name.keep and name.endpoint != interface.pod_name:
                self._interfaces[ifindex] = replace(interface, pod_name=name.endpoint)
            if not interface.host:
                self._claim_addresses(interface, owner_of(name.endpoint), uids, now_ns)
                if self.cluster is not None:
                    recheck_ns = min(recheck_ns, address_claims.next_due(interface, now_ns))
        return endpoints, recheck_ns

    def _claim_addresses(
        self, interface: InterfaceEndpoint, owner: Owner, uids: Set[str], now_ns: int
    ) -> None:
        """Claim the addresses behind an interface for its endpoint."""
        confirmed: Set[int] = frozenset()
        found = interface.owner
        if self.cluster is not None and found is not None and found.kind == "pod":
            confirmed = self.cluster.addresses_of_pod(found.name)
        evidence = ApiEvidence(confirmed, uids, self.book.claimed if self.cluster else None)
        claims = self._addresses.claims(interface, owner, evidence, now_ns)
        self.book.put(("link", interface.ifindex), claims)

    def _take_cluster_claims(self, now_ns: int) -> None:
        if self.cluster is None:
            return
        self.cluster.settle(Clocks(time.time_ns(), now_ns))
        if self._stale:
            self.cluster.apply_links(links_of_pods(self._interfaces.values()))
        for key, claims in self.cluster.changed_claims():
            self.book.put(key, claims)
            self._claim_downtime(self._downtime.mark_pods_disputed(claims))
            self._stale = True
        networks, unknown = self.cluster.pod_networks(), not self.cluster.synced
        if (networks, unknown) != (self._pod_networks, self._cluster_unknown):
            self._pod_networks, self._cluster_unknown = networks, unknown
            self._networks = name_table.build_networks(self._configured_networks, networks, unknown)
            self._stale = True

    def _forget(self, now_ns: int) -> None:
        # Flows may wait for a name for the whole timeout.
        before_ns = now_ns - max(REMEMBER_NS, 2 * self._name_timeout_ns)
        for ifindex, interface in list(self._interfaces.items()):
            if any(span.until_ns < before_ns for span in interface.addresses):
                kept = tuple(span for span in interface.addresses if span.until_ns >= before_ns)
                self._put(replace(interface, addresses=kept))
            if interface.gone_ns and interface.gone_ns < before_ns:
                del self._interfaces[ifindex]
                self._stale = True
                if interface.owner is not None:
                    self._endpoint_names.forget(interface.owner)
        self._addresses.forget(now_ns)
        self.book.forget(now_ns - HISTORY_NS)

    def _claim_static(self, static: Iterable[StaticEndpoint]) -> None:
        claims = [
            Claim(
                address_number(entry.address),
                owner_of(static_endpoint(entry, self._node)),
                0,
                strength=_STATIC_STRENGTH,
            )
            for entry in static
            if entry.address
        ]
        self.book.put("static", claims)

    def _claim_downtime(self, changed: bool) -> None:
        """Claim the disputed addresses of the downtime, if there are more by now."""
        if changed:
            self.book.put("downtime", self._downtime.claims())
            self._stale = True

    def _put(self, interface: InterfaceEndpoint) -> None:
        self._interfaces[interface.ifindex] = interface
        self._stale = True

    def _change(self, ifindex: int, **facts: object) -> None:
        interface = self._interfaces.get(ifindex)
        if interface is not None:
            self._put(replace(interface, **facts))  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""The pods of the cluster and their address leases."""

import heapq
from collections.abc import Iterator, Set

import msgspec

from podtally.identity.cluster.address_leases import (
    HISTORY_NS,
    LATE_NS,
    AddressLease,
    claims,
    possible_from,
    sure_from,
)
from podtally.identity.cluster.removed_links import PodLinks
from podtally.identity.model import FOREVER, Claim, Owner
from podtally.identity.services import parse_address
from podtally.kube.pods import KubePod


class KnownPod(msgspec.Struct, gc=False):
    """A pod, present or remembered."""

    pod: KubePod
    first_seen_ns: int
    leases: list[AddressLease]
    gone_ns: int = FOREVER


class PodTable:
    """Pods by UID; the claims of those in ``changed`` have to be made again."""

    def __init__(self, node_name: str) -> None:
        self.changed: set[str] = set()
        self._node_name = node_name
        self._known: dict[str, KnownPod] = {}
        self._at: dict[int, list[AddressLease]] = {}
        self._static: dict[str, str] = {}  # UID by the kubelet's UID of a static pod of this node
        self._due: list[tuple[int, str]] = []  # when to recheck a pod
        self._of_job: dict[str, set[str]] = {}
        self._present = 0

    def __len__(self) -> int:
        """Return the number of pods that the API has; others are only remembered."""
        return self._present

    def uids(self) -> Set[str]:
        return {uid for uid, known in self._known.items() if known.gone_ns == FOREVER}

    def on_host_networks(self) -> list[str]:
        """Return the UIDs of pods on their node's network; any thread may call this."""
        known = list(self._known.values())
        return [k.pod.uid for k in known if k.pod.host_network and k.gone_ns == FOREVER]

    def on_node(self, node: str) -> Iterator[str]:
        return (uid for uid, known in self._known.items() if known.pod.node == node)

    def of_job(self, uid: str) -> Set[str]:
        return self._of_job.get(uid, set())

    def find(self, uid: str) -> KnownPod | None:
        """Return a pod by the API's UID, or by the kubelet's for a static pod of this node."""
        return self._known.get(self._static.get(uid, uid))

    def addresses(self, uid: str) -> frozenset[int]:
        """Return the addresses that a pod has now, by the API."""
        known = self.find(uid)
        if known is None:
            return frozenset()
        return frozenset(h.address for h in known.leases if h.until_ns == FOREVER and h.reported)

    def put(self, pod: KubePod, at_ns: int, offset_ns: int, unknown_before_ns: int) -> None:
        """Apply a status received at ``at_ns``.

        Earlier holders of the pod's addresses are unknown before ``unknown_before_ns``.
        """
        known = self._known.get(pod.uid)
        if known is None:
            known = self._known[pod.uid] = KnownPod(pod, at_ns, [])
            self._present += 1
            self._enter(pod, at_ns)
        elif known.gone_ns < FOREVER:
            known.gone_ns = FOREVER
            self._present += 1
        elif known.pod == pod:
            return
        known.pod = pod
        self.changed.add(pod.uid)
        if not pod.host_network:
            self._update_leases(known, at_ns, offset_ns, unknown_before_ns)

    def apply_links(self, uid: str, links: PodLinks, now_ns: int) -> None:
        """Take which of its addresses a pod of this node has no longer, by its interfaces."""
        known = self.find(uid)
        for lease in known.leases if known is not None else ():
            released_ns = links.released_ns(lease.address)
            if released_ns is not None and released_ns != lease.released_ns:
                lease.released_ns = released_ns
                self.changed.add(lease.uid)
                if now_ns < released_ns + LATE_NS < FOREVER:
                    heapq.heappush(self._due, (released_ns + LATE_NS, lease.uid))

    def drop(self, uid: str, at_ns: int) -> None:
        known = self._known.get(uid)
        if known is None or known.gone_ns < FOREVER:
            return
        known.gone_ns = at_ns
        self._present -= 1
        self.changed.add(uid)
        heapq.heappush(self._due, (at_ns + HISTORY_NS, uid))
        for lease in known.leases:
            lease.end(at_ns)
            self._recheck(lease, at_ns)

    def settle(self, now_ns: int) -> None:
        """Let time pass: stop waiting for late objects, forget removed pods."""
        while self._due and self._due[0][0] <= now_ns:
            _, uid = heapq.heappop(self._due)
            known = self._known.get(uid)
            if known and known.gone_ns <= now_ns - HISTORY_NS:
                self._forget(known)
            elif known:
                self.changed.add(uid)

    def claims(self, known: KnownPod, owner: Owner, now_ns: int) -> list[Claim]:
        return [
            claim
            for lease in known.leases
            for claim in claims(lease, self._others(lease), owner, now_ns)
        ]

    def _enter(self, pod: KubePod, at_ns: int) -> None:
        if pod.config_hash and pod.node == self._node_name:
            self._static[pod.config_hash] = pod.uid
        if pod.controller and pod.controller.kind == "Job":
            self._of_job.setdefault(pod.controller.uid, set()).add(pod.uid)
            heapq.heappush(self._due, (at_ns + LATE_NS, pod.uid))

    def _forget(self, known: KnownPod) -> None:
        pod = known.pod
        del self._known[pod.uid]
        self.changed.discard(pod.uid)
        if self._static.get(pod.config_hash) == pod.uid:
            del self._static[pod.config_hash]
        if pod.controller and pod.controller.kind == "Job":
            self._of_job[pod.controller.uid].discard(pod.uid)
            if not self._of_job[pod.controller.uid]:
                del self._of_job[pod.controller.uid]
        for lease in known.leases:
            left = [other for other in self._at[lease.address] if other.uid != pod.uid]
            for other in left:
                other.absorb_bounds(lease)
            self._at[lease.address] = left
            if not left:
                del self._at[lease.address]

    def _update_leases(
        self, known: KnownPod, at_ns: int, offset_ns: int, unknown_before_ns: int
    ) -> None:
        """Apply the addresses of a status to the pod's leases."""
        pod, life = known.pod, known.pod.life
        addresses = {a for a in map(parse_address, pod.addresses) if a is not None}
        held = {lease.address: lease for lease in known.leases if lease.reported}
        for address, lease in held.items():
            if address not in addresses:  # its sandbox was made again, with another address
                lease.end(at_ns)
                self._recheck(lease, at_ns)
        for address in addresses - held.keys():
            held[address] = self._new_lease(known, address, (at_ns, offset_ns, unknown_before_ns))
        for address in addresses:
            held[address].update(life, offset_ns, at_ns)
            self._recheck(held[address], at_ns)

    def _new_lease(
        self, known: KnownPod, address: int, times: tuple[int, int, int]
    ) -> AddressLease:
        """Add a lease on an address that was not in the pod's status before."""
        at_ns, offset_ns, unknown_before_ns = times
        life = known.pod.life
        possible_ns, sure_ns = possible_from(life, offset_ns), sure_from(life, offset_ns, at_ns)
        earlier = [lease for lease in known.leases if not lease.reported]
        if earlier:  # containers may have been started with another address
            possible_ns, sure_ns = max(lease.proof_ns for lease in earlier), at_ns
        possible_ns = min(possible_ns, sure_ns)
        unknown_before_ns = min(unknown_before_ns, sure_ns)
        lease = AddressLease(
            known.pod.uid, address, possible_ns, sure_ns, unknown_before_ns, possible_ns
        )
        known.leases.append(lease)
        self._at.setdefault(address, []).append(lease)
        return lease

    def _recheck(self, lease: AddressLease, at_ns: int) -> None:
        """Mark all holders of the address as changed, now, and when no late object is expected."""
        self.changed.update(other.uid for other in self._at[lease.address])
        if at_ns < lease.until_ns + LATE_NS < FOREVER:
            heapq.heappush(self._due, (lease.until_ns + LATE_NS, lease.uid))

    def _others(self, lease: AddressLease) -> list[AddressLease]:
        return [other for other in self._at[lease.address] if other is not lease]

# SPDX-License-Identifier: Apache-2.0
"""The pods of the cluster: their holds on addresses, and the endpoints that are on this node."""

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
from podtally.identity.model import FOREVER, Claim, Owner
from podtally.identity.services import parse_address
from podtally.kube.pods import KubePod


class KnownPod(msgspec.Struct, gc=False):
    """A pod and what became of it."""

    pod: KubePod
    heard_ns: int  # first
    holds: list[AddressLease]
    gone_ns: int = FOREVER


class PodTable:
    """Pods by UID. ``changed`` are those whose claims are to be made anew."""

    def __init__(self, node_name: str) -> None:
        self.changed: set[str] = set()
        self._node_name = node_name
        self._known: dict[str, KnownPod] = {}
        self._at: dict[int, list[AddressLease]] = {}
        self._static: dict[str, str] = {}  # UID by what the kubelet calls a static pod of this node
        self._due: list[tuple[int, str]] = []  # when to look at a pod again
        self._of_job: dict[str, set[str]] = {}
        self._present = 0

    def __len__(self) -> int:
        """Those that the API knows; others are remembered only."""
        return self._present

    def uids(self) -> Set[str]:
        return {uid for uid, known in self._known.items() if known.gone_ns == FOREVER}

    def on_host_networks(self) -> list[str]:
        """UIDs of pods that have no address of their own; any thread may ask."""
        known = list(self._known.values())
        return [k.pod.uid for k in known if k.pod.host_network and k.gone_ns == FOREVER]

    def on_node(self, node: str) -> Iterator[str]:
        return (uid for uid, known in self._known.items() if known.pod.node == node)

    def of_job(self, uid: str) -> Set[str]:
        return self._of_job.get(uid, set())

    def find(self, uid: str) -> KnownPod | None:
        """By the API's UID; for a static pod of this node by the kubelet's as well."""
        return self._known.get(self._static.get(uid, uid))

    def addresses(self, uid: str) -> frozenset[int]:
        """Those that the API says a pod has now."""
        known = self.find(uid)
        if known is None:
            return frozenset()
        return frozenset(h.address for h in known.holds if h.until_ns == FOREVER and h.reported)

    def put(self, pod: KubePod, at_ns: int, offset_ns: int, dark_ns: int) -> None:
        """A status received at ``at_ns``; who had its addresses before ``dark_ns`` is not known."""
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
            self._hold(known, at_ns, offset_ns, dark_ns)

    def drop(self, uid: str, at_ns: int) -> None:
        known = self._known.get(uid)
        if known is None or known.gone_ns < FOREVER:
            return
        known.gone_ns = at_ns
        self._present -= 1
        self.changed.add(uid)
        heapq.heappush(self._due, (at_ns + HISTORY_NS, uid))
        for hold in known.holds:
            hold.end(at_ns)
            self._look_again(hold, at_ns)

    def settle(self, now_ns: int) -> None:
        """What only waited for time to pass: answers that did not come, memories to forget."""
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
            for hold in known.holds
            for claim in claims(hold, self._others(hold), owner, now_ns)
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
        for hold in known.holds:
            left = [other for other in self._at[hold.address] if other.uid != pod.uid]
            for other in left:
                other.absorb_bounds(hold)
            self._at[hold.address] = left
            if not left:
                del self._at[hold.address]

    def _hold(self, known: KnownPod, at_ns: int, offset_ns: int, dark_ns: int) -> None:
        """Carry over what a status says of the pod's addresses."""
        pod, life = known.pod, known.pod.life
        addresses = {a for a in map(parse_address, pod.addresses) if a is not None}
        held = {hold.address: hold for hold in known.holds if hold.reported}
        for address, hold in held.items():
            if address not in addresses:  # its sandbox was made anew, with another address
                hold.end(at_ns)
                self._look_again(hold, at_ns)
        for address in addresses - held.keys():
            held[address] = self._begin(known, address, (at_ns, offset_ns, dark_ns))
        for address in addresses:
            held[address].learn(life, offset_ns, at_ns)
            self._look_again(held[address], at_ns)

    def _begin(self, known: KnownPod, address: int, times: tuple[int, int, int]) -> AddressLease:
        """A hold on an address that was not in the pod's status before."""
        at_ns, offset_ns, dark_ns = times
        life = known.pod.life
        possible_ns, sure_ns = possible_from(life, offset_ns), sure_from(life, offset_ns, at_ns)
        earlier = [hold for hold in known.holds if not hold.reported]
        if earlier:  # then containers may have been started under another address
            possible_ns, sure_ns = max(hold.proof_ns for hold in earlier), at_ns
        possible_ns = min(possible_ns, sure_ns)
        dark_ns = min(dark_ns, sure_ns)
        hold = AddressLease(known.pod.uid, address, possible_ns, sure_ns, dark_ns, possible_ns)
        known.holds.append(hold)
        self._at.setdefault(address, []).append(hold)
        return hold

    def _look_again(self, hold: AddressLease, at_ns: int) -> None:
        """At all who have or had the address, now; and once no late answer is to be expected."""
        self.changed.update(other.uid for other in self._at[hold.address])
        if at_ns < hold.until_ns + LATE_NS < FOREVER:
            heapq.heappush(self._due, (hold.until_ns + LATE_NS, hold.uid))

    def _others(self, hold: AddressLease) -> list[AddressLease]:
        return [other for other in self._at[hold.address] if other is not hold]

# SPDX-License-Identifier: Apache-2.0
"""Acts on each change of a link: attach, report to the agent, detach.

No thread and no waiting here: ``watcher`` calls in the order of the kernel's messages.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from podtally.attach.attacher import Attacher, is_gone
from podtally.attach.selection import Wanted
from podtally.attach.surroundings import Surroundings
from podtally.errors import PodtallyError
from podtally.netlink.links import get_link
from podtally.netlink.model import (
    UNKNOWN,
    AddressesChanged,
    Appeared,
    Attached,
    AttachFailed,
    Counters,
    Detached,
    Frames,
    Gone,
    Link,
    NetnsNamed,
    Renamed,
    Role,
    Sink,
)
from podtally.netlink.namespace_addresses import AddressReader, Had, Networks
from podtally.netlink.namespaces import NOT_ASSIGNED, Namespaces
from podtally.netlink.netlink import Requests
from podtally.netlink.routes import uplinks

_ADDRESS_BITS = 128


@dataclass(slots=True)
class _KnownLink:
    """A link; ``role`` is None while it is not watched."""

    link: Link
    first: Link
    role: Role | None = None
    attached: bool = False
    netns: str = ""
    had: Had | None = None
    sent_by_peer: int = UNKNOWN  # what a veth's other end had sent when it closed

    @property
    def nsid(self) -> int:
        """The endpoint's namespace; for the host's own links, this one."""
        return self.link.peer_nsid if self.role is Role.POD else NOT_ASSIGNED


class Reconciler:
    """Keeps track of all links, and attaches the selected ones.

    A watched link stays watched until it goes, even under another name.
    """

    def __init__(
        self,
        attacher: Attacher,
        wanted: Wanted,
        prepare: Callable[[int], None],
        events: Sink,
    ) -> None:
        self._attacher = attacher
        self._wanted = wanted
        self._prepare = prepare
        self._events = events
        self._requests = Requests()
        self.namespaces = Namespaces(self._requests)
        self._reader = AddressReader(self._requests, self.namespaces)
        self._put_off: set[int] = set()  # namespaces with addresses that are not listed yet
        self._known: dict[int, _KnownLink] = {}
        self._surroundings = Surroundings(self._uplinks, self._link_of, self._ports_of)
        self.attach_errors = 0

    def close(self) -> None:
        self._requests.close()

    def all_there(self, links: Iterable[Link]) -> None:
        """Make what we know agree with a full list; differences become events."""
        there = {link.ifindex: link for link in links}
        for ifindex in self._known.keys() - there.keys():
            self._let_go(ifindex, None)
        for ifindex, link in there.items():
            known = self._known.get(ifindex)
            if known is not None and known.attached and not self._attacher.attached(ifindex):
                self._let_go(ifindex, None)  # another interface under the same number
            self._known.setdefault(ifindex, _KnownLink(link, link))
        for link in there.values():  # each is chosen by what it stands on
            self.seen(link)
        self._reader.look_at_host()
        self.addresses_changed({known.nsid for known in self._known.values() if known.attached})
        self.check_routes(every=False)  # of ports that came before others of their bridge

    def attach_lost(self) -> None:
        """Attach again where our programs have been detached, or removed their pins, and
        where it failed before.
        """
        for known in list(self._known.values()):
            ifindex, role = known.link.ifindex, known.role
            if role is None or (known.attached and self._attacher.attached(ifindex)):
                continue
            if get_link(self._requests, ifindex) is None:  # Gone follows
                continue
            if known.attached:
                known.attached = False
                self._events.put(Detached(ifindex, known.link.name))
            self._watch(known, role)

    def detach_unwanted(self) -> None:
        """Take our programs off interfaces that an earlier run watched and this one does not."""
        for ifindex in sorted({attachment.ifindex for attachment in self._attacher.own()}):
            known = self._known.get(ifindex)
            if known is None or known.role is None:
                self._attacher.forget(ifindex)

    def seen(self, link: Link) -> None:
        """Take in a link that is new, or changed."""
        known = self._known.get(link.ifindex)
        if known is None:
            known = self._known[link.ifindex] = _KnownLink(link, link)
        elif known.role is not None:
            self._changed(known, link)
        else:
            known.link = link
        if not known.attached and (role := self._wanted(link, self._surroundings)) is not None:
            self._watch(known, role)

    def gone(self, last: Link) -> None:
        """Detach from a link; ``last`` is the kernel's final message about it."""
        known = self._known.get(last.ifindex)
        final = _final_counters(known, last) if known is not None else None
        self._let_go(last.ifindex, final, last.frames, last.moved)
        # When one end of a pair moves to another namespace, only its leaving is announced
        # here; ask the other end where it went.
        for other in list(self._known.values()):
            if other.link.peer_ifindex == last.ifindex and other.link.peer_nsid < 0:
                link = get_link(self._requests, other.link.ifindex)
                if link is not None:
                    self.seen(link)

    def peer_seen(self, nsid: int, peer: Link) -> None:
        """Note a pod's own end as it closes: only its counter says what the pod sent."""
        if peer.up:
            return
        for known in self._known.values():
            if known.link.peer_ifindex == peer.ifindex and known.link.peer_nsid == nsid:
                known.sent_by_peer = peer.tx_bytes

    def due(self) -> float | None:
        """Return when ``look_again`` is to be called: CLOCK_MONOTONIC, seconds; None: not."""
        return min(map(self._reader.free_at, self._put_off), default=None)

    def look_again(self) -> None:
        """List the addresses of namespaces that have changed them too often for a while."""
        now = time.monotonic()
        due = {nsid for nsid in self._put_off if self._reader.free_at(nsid) <= now}
        self._put_off -= due
        self.addresses_changed(due)

    def addresses_changed(self, nsids: Iterable[int]) -> None:
        """Addresses came or went in these namespaces."""
        nsids = set(nsids)
        if NOT_ASSIGNED in nsids:
            self._reader.look_at_host()
        for nsid in nsids:
            behind = [k for k in self._known.values() if k.attached and k.nsid == nsid]
            if not behind:
                continue
            if nsid != NOT_ASSIGNED and self._reader.free_at(nsid) > time.monotonic():
                self._put_off.add(nsid)
                continue
            found = self._reader.read(nsid)
            for known in behind:
                if found is not None:
                    before = known.had.addresses if known.had else ()
                    self._have(known, self._reader.had(found, known.link, before))

    def check_routes(self, every: bool) -> None:
        """See whether routes have come, or with ``every`` also whether some have gone."""
        if every:
            self._reader.look_at_host()
        now = time.monotonic()
        for known in list(self._known.values()):
            had = known.had
            if had is None or not (every or len(had.routed) < len(had.addresses)):
                continue
            if every or self._reader.free_at(known.nsid) <= now:
                self._have(known, had)

    def _have(self, known: _KnownLink, had: Had) -> None:
        """Report what an endpoint has, if that is new."""
        routed: frozenset[bytes] | None = None
        if known.role is Role.POD:
            beside = self._networks_beside(known)
            try:
                routed = self._reader.routed(had, known.link, self._link_of, beside)
            except OSError:  # it is queried again
                routed = known.had.routed & set(had.addresses) if known.had else frozenset()
        had = had._replace(routed=routed or frozenset())
        if had != known.had:
            known.had = had
            self._events.put(
                AddressesChanged(
                    known.link.ifindex,
                    had.addresses,
                    time.monotonic_ns(),
                    routed,
                    had.on_link,
                    had.excess,
                )
            )

    def look_for_names(self) -> None:
        """See whether a namespace that had no name has one now."""
        for known in self._known.values():
            if known.role is Role.POD and not known.netns:
                known.netns = self.namespaces.name_of(known.nsid)
                if known.netns:
                    self._events.put(NetnsNamed(known.link.ifindex, known.netns))

    def _networks_beside(self, known: _KnownLink) -> Networks:
        """Return the networks that other ports of the same bridge have addresses of."""
        master = known.link.master
        return frozenset(
            network
            for other in self._known.values()
            if master and other.link.master == master and other.nsid != known.nsid and other.had
            for network in other.had.networks
            if network[1] < _ADDRESS_BITS
        )

    def _link_of(self, ifindex: int) -> Link | None:
        known = self._known.get(ifindex)
        return known.link if known is not None else None

    def _ports_of(self, ifindex: int) -> list[Link]:
        return [each.link for each in self._known.values() if each.link.master == ifindex]

    def _uplinks(self, vrf: int) -> frozenset[int]:
        return uplinks(self._requests, vrf)

    def _changed(self, known: _KnownLink, link: Link) -> None:
        if link.name != known.link.name:
            self._events.put(Renamed(link.ifindex, link.name))
        moved = link.peer_nsid != known.link.peer_nsid
        if known.role is Role.POD and link.peer_nsid < 0:
            # the peer interface is going away; keep its identity to recognise its last messages
            link = link._replace(
                peer_ifindex=known.link.peer_ifindex, peer_nsid=known.link.peer_nsid
            )
            moved = False
        known.link = link
        if moved and known.role is Role.POD:
            known.netns = ""
            self.look_for_names()
            self.addresses_changed({known.nsid})

    def _watch(self, known: _KnownLink, role: Role) -> None:
        link = known.link
        if known.role is None:
            known.role = role
            known.netns = self.namespaces.name_of(known.nsid)
            low = known.first.counters(role)
            self._events.put(Appeared(link, role, known.netns, low, time.monotonic_ns()))
        try:
            self._prepare(link.ifindex)
            mode, fresh = self._attacher.attach(link, role)
        except (OSError, PodtallyError) as error:
            self._failed(link, error)
            return
        now = get_link(self._requests, link.ifindex)
        if now is None:  # it went right after: its final message follows
            return
        known.attached = True
        self._events.put(Attached(link.ifindex, mode, fresh, now.counters(role)))
        self.addresses_changed({known.nsid})

    def _failed(self, link: Link, error: Exception) -> None:
        """Report a failure, unless the interface is gone: Gone follows then."""
        if isinstance(error, OSError) and is_gone(error):
            return
        if get_link(self._requests, link.ifindex) is None:
            return
        self.attach_errors += 1
        words = error.strerror if isinstance(error, OSError) else None
        self._events.put(AttachFailed(link.ifindex, link.name, words or str(error)))

    def _let_go(
        self,
        ifindex: int,
        final: Counters | None,
        frames: Frames | None = None,
        moved: bool = False,
    ) -> None:
        known = self._known.pop(ifindex, None)
        if known is None or known.role is None:
            return
        self._attacher.forget(ifindex)
        self._reader.forget(known.nsid)
        self._put_off.discard(known.nsid)
        self._events.put(Gone(ifindex, final, time.monotonic_ns(), frames, moved))


def _final_counters(known: _KnownLink, last: Link) -> Counters | None:
    """Read the final message; for a pod's veth see ``Gone``."""
    if known.role is None:
        return None
    final = last.counters(known.role)
    if known.role is Role.POD and known.first.kind == "veth":
        return final._replace(from_endpoint=known.sent_by_peer)
    return final

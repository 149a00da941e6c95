# SPDX-License-Identifier: Apache-2.0
"""Addresses of nodes and Services, which keep them for life.

They are claimed from the object's creation (an added address: since the object was last seen
without it) until the object is seen without them.
"""

from collections.abc import Set

import msgspec

from podtally.identity.cluster.address_leases import HISTORY_NS, LATE_NS, SECOND_NS, SKEW_NS
from podtally.identity.model import FOREVER
from podtally.identity.services import parse_address
from podtally.kube.objects import KubeNode, KubeService


class FixedAddressSpan(msgspec.Struct, gc=False):
    address: int
    from_ns: int
    until_ns: int = FOREVER


class FixedAddresses(msgspec.Struct, gc=False):
    """A node or Service, and the addresses that it has or had."""

    object: KubeNode | KubeService
    last_seen_ns: int
    spans: list[FixedAddressSpan]
    gone_ns: int = FOREVER


class FixedAddressTable:
    """Nodes and Services by UID; the claims of those in ``changed`` have to be made again."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self._known: dict[str, FixedAddresses] = {}
        self._gone: list[str] = []  # in order of removal

    def uids(self, kind: type[KubeNode] | type[KubeService]) -> Set[str]:
        return {
            uid
            for uid, known in self._known.items()
            if known.gone_ns == FOREVER and isinstance(known.object, kind)
        }

    def find(self, uid: str) -> FixedAddresses | None:
        return self._known.get(uid)

    def put(self, item: KubeNode | KubeService, at_ns: int, offset_ns: int) -> None:
        from_ns = max(0, item.created_seconds * SECOND_NS + offset_ns - SKEW_NS)
        known = self._known.get(item.uid)
        if known is None:
            known = self._known[item.uid] = FixedAddresses(item, at_ns, [])
        else:
            from_ns = max(from_ns, known.last_seen_ns - LATE_NS)
            known.last_seen_ns, known.gone_ns = at_ns, FOREVER
            if known.object == item and known.spans:
                return
            known.object = item
        addresses = {a for a in map(parse_address, item.addresses) if a is not None}
        _end(known, at_ns, addresses)
        known.spans = [s for s in known.spans if s.until_ns > at_ns - HISTORY_NS]
        had = {span.address for span in known.spans if span.until_ns == FOREVER}
        known.spans += [FixedAddressSpan(address, from_ns) for address in addresses - had]
        self.changed.add(item.uid)

    def drop(self, uid: str, at_ns: int) -> None:
        known = self._known.get(uid)
        if known and known.gone_ns == FOREVER:
            _end(known, at_ns, frozenset())
            known.gone_ns = at_ns
            self._gone.append(uid)
            self.changed.add(uid)

    def settle(self, now_ns: int) -> None:
        """Forget objects removed long ago."""
        while self._gone:
            known = self._known.get(self._gone[0])
            if known and known.gone_ns < FOREVER:
                if now_ns < known.gone_ns + HISTORY_NS:
                    return
                del self._known[self._gone[0]]
            del self._gone[0]


def _end(known: FixedAddresses, at_ns: int, kept: Set[int]) -> None:
    for span in known.spans:
        if span.until_ns == FOREVER and span.address not in kept:
            span.until_ns = at_ns

# SPDX-License-Identifier: Apache-2.0
"""Decides which of the addresses configured behind an interface count as its endpoint's.

Anyone in a namespace may configure any address. It counts if this host routes it to the
interface, or if the API confirms it for the pod. Others make no claim, and an address that the
API gives to another endpoint is no FACT.
"""

from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import replace
from typing import NamedTuple

from podtally.identity.claims import CONFIRMED, FACT, UNSETTLED
from podtally.identity.cluster.address_leases import POD_STRENGTH
from podtally.identity.interface_endpoints import (
    AddressSpan,
    InterfaceEndpoint,
    address_number,
    address_text,
)
from podtally.identity.model import FOREVER, UNKNOWN, Claim, Owner
from podtally.netlink.model import AddressesChanged

# The API reports late that a new pod has an address, and that an old one lost it.
API_LATE_NS = 10_000_000_000
SETTLED_NS = 2_000_000_000  # the host's route follows right after the address
EVENT_DELAY_NS = 1_000_000_000  # the longest delay of an interface's events
CONTESTED_NS = 30_000_000_000
_FIRST = CONFIRMED + 1
_MAX_ENDED = 128  # remembered former addresses of an endpoint


def with_addresses(interface: InterfaceEndpoint, event: AddressesChanged) -> InterfaceEndpoint:
    """Return the interface with its present addresses."""
    now = {address_text(address): address for address in event.addresses}
    span: list[AddressSpan] = []
    for each in interface.addresses:
        if each.until_ns != FOREVER:
            span.append(each)
        elif each.address not in now:
            span.append(each._replace(until_ns=event.at_ns))
        else:
            span += _again(each, now.pop(each.address), event)
    span += [_span(written, now[written], event) for written in sorted(now)]
    ended = [each for each in span if each.until_ns != FOREVER]
    if len(ended) > _MAX_ENDED:
        forgotten = set(ended[:-_MAX_ENDED])
        span = [each for each in span if each not in forgotten]
    return replace(interface, addresses=tuple(span), excess=event.excess)


def _span(written: str, address: bytes, event: AddressesChanged) -> AddressSpan:
    routed = event.routed is None or address in event.routed
    return AddressSpan(written, event.at_ns, FOREVER, routed, address in event.on_link)


def _again(before: AddressSpan, address: bytes, event: AddressesChanged) -> list[AddressSpan]:
    """Return the spans of an address that is still there; its route may have changed."""
    now = _span(before.address, address, event)
    if now.routed == before.routed:
        return [before._replace(on_link=now.on_link)]
    if now.routed and event.at_ns - before.from_ns < SETTLED_NS:
        return [now._replace(from_ns=before.from_ns)]
    return [before._replace(until_ns=event.at_ns), now]


class ApiEvidence(NamedTuple):
    """What the API reports about one endpoint."""

    confirmed: Set[int] = frozenset()  # addresses that the API confirms
    local_uids: Set[str] = frozenset()  # of pods with watched interfaces
    claimed: Callable[[int], list[Claim]] | None = None  # claims to an address; None: no API


class AddressClaims:
    """The claims of interfaces, and the addresses that changed owners a moment ago."""

    def __init__(self) -> None:
        self.contested: dict[str, int] = {}  # addresses, and when they last changed owners
        self.host: frozenset[int] = frozenset()  # the host's own addresses

    def add(
        self, new: Set[str], others: Iterable[InterfaceEndpoint], at_ns: int, after_downtime: bool
    ) -> None:
        """Note new addresses of an endpoint: those that others may have had are contested."""
        if new and not after_downtime:
            had = {span.address for other in others for span in other.addresses}
            new = new & had
        self.contested |= dict.fromkeys(new, at_ns)

    def forget(self, now_ns: int) -> None:
        for address, at_ns in list(self.contested.items()):
            if at_ns < now_ns - CONTESTED_NS:
                del self.contested[address]

    def claims(
        self, interface: InterfaceEndpoint, owner: Owner, evidence: ApiEvidence, now_ns: int
    ) -> list[Claim]:
        """Return the claims of the addresses behind an interface for its endpoint."""
        made = []
        for span in interface.addresses:
            address = address_number(span.address)
            confirmed = address in evidence.confirmed
            if address in self.host or not (span.routed or confirmed):
                continue
            strength = FACT
            if span.until_ns == FOREVER:  # the API reports late about the past
                if confirmed:
                    strength = CONFIRMED
                elif evidence.claimed is not None and now_ns >= span.from_ns + API_LATE_NS:
                    strength = _others(evidence, address, owner.uid) or FACT
            made.append(Claim(address, owner, span.from_ns, span.until_ns, strength))
        return made

    def unsettled(
        self, interfaces: Collection[InterfaceEndpoint], now_ns: int
    ) -> tuple[list[Claim], int]:
        """Return UNSETTLED claims to addresses that two have since a moment ago, and until when
        they hold: the event that one of them lost it comes soon.
        """
        made, until_ns = [], FOREVER
        for address, at_ns in self.contested.items():
            if now_ns < at_ns + EVENT_DELAY_NS:
                since = [s for each in interfaces if (s := each.routed_since(address))]
                if len(since) > 1:
                    made.append(
                        Claim(address_number(address), UNSETTLED, max(since), FOREVER, _FIRST)
                    )
                    until_ns = min(until_ns, at_ns + EVENT_DELAY_NS)
        return made, until_ns


def unrouted_addresses(interface: InterfaceEndpoint, confirmed: Set[int], now_ns: int) -> list[int]:
    """Return addresses configured on an interface's peer for a while, neither routed to it nor
    among ``confirmed``, those that the API confirms.
    """
    return [
        address
        for span in interface.addresses
        if span.until_ns == FOREVER and span.on_link and not span.routed
        if now_ns >= span.from_ns + API_LATE_NS
        if (address := address_number(span.address)) not in confirmed
    ]


def has_known_owner(owner: Owner) -> bool:
    """Return whether an address that we do not claim has a known owner."""
    if owner.kind == "external":
        return bool(owner.name) or owner.scope == "internet"
    return owner.kind != UNKNOWN


def next_due(interface: InterfaceEndpoint, now_ns: int) -> int:
    """Return when the API should know of a further address; FOREVER if there is none."""
    due = (h.from_ns + API_LATE_NS for h in interface.addresses if h.until_ns == FOREVER)
    return min((each for each in due if each > now_ns), default=FOREVER)


def _others(evidence: ApiEvidence, address: int, own_uid: str) -> int:
    """Return the strength of the API's claims for other owners; 0 if there are none.

    The API may report this node's pods long after they have gone: only watched ones count.
    """
    assert evidence.claimed is not None
    return max(
        (
            claim.strength
            for claim in evidence.claimed(address)
            if claim.until_ns == FOREVER and claim.strength <= POD_STRENGTH
            if claim.owner.uid != own_uid
            if (claim.owner.kind, claim.owner.scope) != ("pod", "node")
            or claim.owner.uid in evidence.local_uids
        ),
        default=0,
    )

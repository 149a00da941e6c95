# SPDX-License-Identifier: Apache-2.0
"""Which of the addresses that are configured behind an interface count as its endpoint's.

Whoever is in a namespace may configure any address. It counts if this host routes it to the
interface, or if the API says that the pod has it. What is neither is no claim; and what the
API says to be another's is no fact.
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

# The API tells late of a new pod, and that an old one has its address no more.
API_LATE_NS = 10_000_000_000
SETTLED_NS = 2_000_000_000  # the host's route comes right after the address
EVENT_DELAY_NS = 1_000_000_000  # so late an interface is heard of at most
CONTESTED_NS = 30_000_000_000
_FIRST = CONFIRMED + 1
_MAX_ENDED = 128  # addresses that an endpoint had, as far as they are remembered


def with_addresses(resident: InterfaceEndpoint, event: AddressesChanged) -> InterfaceEndpoint:
    """Return the resident with the addresses that it has now."""
    now = {address_text(address): address for address in event.addresses}
    held: list[AddressSpan] = []
    for each in resident.addresses:
        if each.until_ns != FOREVER:
            held.append(each)
        elif each.address not in now:
            held.append(each._replace(until_ns=event.at_ns))
        else:
            held += _again(each, now.pop(each.address), event)
    held += [_held(written, now[written], event) for written in sorted(now)]
    ended = [each for each in held if each.until_ns != FOREVER]
    if len(ended) > _MAX_ENDED:
        forgotten = set(ended[:-_MAX_ENDED])
        held = [each for each in held if each not in forgotten]
    return replace(resident, addresses=tuple(held), excess=event.excess)


def _held(written: str, address: bytes, event: AddressesChanged) -> AddressSpan:
    routed = event.routed is None or address in event.routed
    return AddressSpan(written, event.at_ns, FOREVER, routed, address in event.on_link)


def _again(before: AddressSpan, address: bytes, event: AddressesChanged) -> list[AddressSpan]:
    """An address that is still there, but its route may have come or gone."""
    now = _held(before.address, address, event)
    if now.routed == before.routed:
        return [before._replace(on_link=now.on_link)]
    if now.routed and event.at_ns - before.from_ns < SETTLED_NS:
        return [now._replace(from_ns=before.from_ns)]
    return [before._replace(until_ns=event.at_ns), now]


class ApiEvidence(NamedTuple):
    """What the API says, as far as one endpoint is concerned."""

    confirmed: Set[int] = frozenset()  # addresses that it says the endpoint has
    here: Set[str] = frozenset()  # UIDs of pods whose interfaces are here
    claimed: Callable[[int], list[Claim]] | None = None  # claims to an address; None: no API


class AddressClaims:
    """The claims that interfaces make, and which addresses are in dispute."""

    def __init__(self) -> None:
        self.contested: dict[str, int] = {}  # addresses, and when they last changed hands
        self.host: frozenset[int] = frozenset()  # the host's own addresses

    def began(
        self, new: Set[str], others: Iterable[InterfaceEndpoint], at_ns: int, after_dark: bool
    ) -> None:
        """Note that an endpoint has new addresses, which others may have had."""
        if new and not after_dark:
            had = {held.address for other in others for held in other.addresses}
            new = new & had
        self.contested |= dict.fromkeys(new, at_ns)

    def forget(self, now_ns: int) -> None:
        for address, at_ns in list(self.contested.items()):
            if at_ns < now_ns - CONTESTED_NS:
                del self.contested[address]

    def claims(
        self, resident: InterfaceEndpoint, owner: Owner, told: ApiEvidence, now_ns: int
    ) -> list[Claim]:
        """Return what the addresses behind an interface make of its endpoint."""
        made = []
        for held in resident.addresses:
            address = address_number(held.address)
            confirmed = address in told.confirmed
            if address in self.host or not (held.routed or confirmed):
                continue
            strength = FACT
            if held.until_ns == FOREVER:  # of the past the API tells late
                if confirmed:
                    strength = CONFIRMED
                elif told.claimed is not None and now_ns >= held.from_ns + API_LATE_NS:
                    strength = _others(told, address, owner.uid) or FACT
            made.append(Claim(address, owner, held.from_ns, held.until_ns, strength))
        return made

    def unsettled(
        self, residents: Collection[InterfaceEndpoint], now_ns: int
    ) -> tuple[list[Claim], int]:
        """Return claims for what two have since a moment ago, and until when to make them:
        that one of them has let it go is heard soon.
        """
        made, until_ns = [], FOREVER
        for address, at_ns in self.contested.items():
            if now_ns < at_ns + EVENT_DELAY_NS:
                since = [s for each in residents if (s := each.routed_since(address))]
                if len(since) > 1:
                    made.append(
                        Claim(address_number(address), UNSETTLED, max(since), FOREVER, _FIRST)
                    )
                    until_ns = min(until_ns, at_ns + EVENT_DELAY_NS)
        return made, until_ns


def unrouted_addresses(resident: InterfaceEndpoint, told: Set[int], now_ns: int) -> list[int]:
    """Return addresses of an interface's own other end that are not routed to it, though
    they have been there for a while; ``told`` are those that the API confirms.
    """
    return [
        address
        for held in resident.addresses
        if held.until_ns == FOREVER and held.on_link and not held.routed
        if now_ns >= held.from_ns + API_LATE_NS
        if (address := address_number(held.address)) not in told
    ]


def has_known_owner(owner: Owner) -> bool:
    """Whether an address without a claim of ours is known to be another's."""
    if owner.kind == "external":
        return bool(owner.name) or owner.scope == "internet"
    return owner.kind != UNKNOWN


def next_due(resident: InterfaceEndpoint, now_ns: int) -> int:
    """Return when the API must have told of an address; FOREVER if it must have of all."""
    due = (h.from_ns + API_LATE_NS for h in resident.addresses if h.until_ns == FOREVER)
    return min((each for each in due if each > now_ns), default=FOREVER)


def _others(told: ApiEvidence, address: int, mine: str) -> int:
    """Return the strength of what the API claims for somebody else; 0 if it claims nothing.

    Of this node's pods it may tell long after they have gone: those count that are here.
    """
    assert told.claimed is not None
    return max(
        (
            claim.strength
            for claim in told.claimed(address)
            if claim.until_ns == FOREVER and claim.strength <= POD_STRENGTH
            if claim.owner.uid != mine
            if (claim.owner.kind, claim.owner.scope) != ("pod", "node")
            or claim.owner.uid in told.here
        ),
        default=0,
    )

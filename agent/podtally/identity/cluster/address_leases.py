# SPDX-License-Identifier: Apache-2.0
"""Bounds of the times in which pods have their addresses, derived from the API's objects.

The API gives times in whole seconds, by the clock of each pod's node, and late. So the start of
a lease has two bounds, the earliest time and the time by which it is certain. An address belongs
to one pod at a time: what is certain for one pod bounds the times of another.
"""

from collections.abc import Iterator, Sequence

import msgspec

from podtally.identity.model import DISPUTED, FOREVER, Claim, Owner
from podtally.kube.pods import Life

SECOND_NS = 1_000_000_000
SKEW_NS = SECOND_NS // 10  # between the clocks of two nodes that keep time by NTP
HISTORY_NS = 120 * SECOND_NS  # how long removed objects are remembered
LATE_NS = 5 * SECOND_NS  # the API is expected to report within this time
POD_STRENGTH = 10
_RELEASED_STRENGTH = POD_STRENGTH - 1  # of what the API still says of a released address


class AddressLease(msgspec.Struct, gc=False):
    """The times in which one pod has one address, CLOCK_MONOTONIC in ns."""

    uid: str
    address: int
    earliest_ns: int  # the pod did not have it before
    certain_ns: int  # the pod had it by then
    unknown_before_ns: int  # an unknown pod may have had it before
    proof_ns: int  # the pod still had it then
    until_ns: int = FOREVER  # the last of the pod's containers had ended
    gone_ns: int = FOREVER  # its sandbox, which ends last, was gone
    reported: bool = True  # the pod's status still has the address
    released_ns: int = FOREVER  # the pod's interface with the address was removed

    def update(self, life: Life, offset_ns: int, at_ns: int) -> None:
        """Apply a status received at ``at_ns``; ``offset_ns`` is CLOCK_MONOTONIC - Unix time."""
        self.certain_ns = min(self.certain_ns, sure_from(life, offset_ns, at_ns))
        self.unknown_before_ns = min(self.unknown_before_ns, self.certain_ns)
        if life.last_proof_seconds:
            proof_ns = life.last_proof_seconds * SECOND_NS + offset_ns - SKEW_NS
            self.proof_ns = max(self.proof_ns, min(proof_ns, at_ns))
        if life.over:
            self._end(_latest(life.ended_seconds, offset_ns, at_ns))
        if life.gone_seconds:
            self.gone_ns = min(self.gone_ns, _latest(life.gone_seconds, offset_ns, at_ns))

    def end(self, at_ns: int) -> None:
        """End the lease: the API reported at ``at_ns`` that the pod no longer has the address."""
        self.reported = False
        self._end(at_ns)
        self.gone_ns = min(self.gone_ns, at_ns)

    def _end(self, until_ns: int) -> None:
        self.until_ns = min(self.until_ns, max(until_ns, self.earliest_ns))
        self.proof_ns = min(self.proof_ns, self.until_ns)

    def absorb_bounds(self, other: "AddressLease") -> None:
        """Keep the bounds that ``other`` sets, before it is forgotten."""
        self.unknown_before_ns = _unknown_until(self, (other,))
        self.earliest_ns, until_ns = bounds(self, (other,))
        self.proof_ns = max(self.proof_ns, self.earliest_ns)
        self._end(until_ns)


def possible_from(life: Life, offset_ns: int) -> int:
    """Return the earliest start: no sandbox exists before the pod's ``status.startTime``."""
    return max(0, life.admitted_seconds * SECOND_NS + offset_ns - SKEW_NS)


def sure_from(life: Life, offset_ns: int, at_ns: int) -> int:
    return min(
        _latest(life.sandbox_seconds, offset_ns, at_ns),
        _latest(life.first_start_seconds, offset_ns, at_ns),
    )


def _latest(seconds: int, offset_ns: int, at_ns: int) -> int:
    """Return the latest time of an event in a second that was reported at ``at_ns``."""
    if not seconds:
        return at_ns
    return max(0, min(at_ns, (seconds + 1) * SECOND_NS + offset_ns + SKEW_NS))


def bounds(lease: AddressLease, others: Sequence[AddressLease]) -> tuple[int, int]:
    """Return start and end, limited by what is certain of the other leases on the address.

    A pod that stays in the API though its node is lost so loses its address to the next holder.
    """
    start, end = lease.earliest_ns, lease.until_ns
    for other in others:
        if other.certain_ns > lease.certain_ns and other.certain_ns >= lease.proof_ns:
            end = min(end, other.certain_ns)
        elif other.certain_ns < lease.certain_ns and other.proof_ns <= lease.certain_ns:
            start = max(start, other.proof_ns)
    return start, max(start, end)


def _unknown_until(lease: AddressLease, others: Sequence[AddressLease]) -> int:
    """Return until when another pod, or its sandbox, had or may have had the address."""
    earlier = (other.gone_ns for other in others if other.certain_ns <= lease.certain_ns)
    return max(lease.unknown_before_ns, min(lease.certain_ns, max(earlier, default=0)))


def claims(
    lease: AddressLease, others: Sequence[AddressLease], owner: Owner, now_ns: int
) -> Iterator[Claim]:
    """Yield the claims of a lease as of ``now_ns``.

    The last second of a lease that just ended is not final: the next pod may have started in it
    without being reported yet. Before ``unknown_before_ns`` the owner is DISPUTED. From
    ``released_ns`` on the next pod may have the address, before its interface is reported.
    """
    start, end = bounds(lease, others)
    if end < now_ns - HISTORY_NS:
        return
    address, strength = lease.address, POD_STRENGTH
    if lease.released_ns < end:
        released_ns = max(start, lease.released_ns)
        next_one = DISPUTED._replace(final=now_ns >= lease.released_ns + LATE_NS)
        yield Claim(address, next_one, released_ns, end, _RELEASED_STRENGTH)
        end = released_ns
    unknown_before_ns = _unknown_until(lease, others)
    if start < unknown_before_ns:
        if start < min(unknown_before_ns, end):
            yield Claim(address, DISPUTED, start, min(unknown_before_ns, end), strength)
        start = unknown_before_ns
    settled_ns = end if not unsettled(lease, now_ns) else min(end, max(start, lease.proof_ns))
    if start < settled_ns:
        yield Claim(address, owner, start, settled_ns, strength)
    if max(start, settled_ns) < end:
        waits = owner._replace(final=False)
        yield Claim(address, waits, max(start, settled_ns), end, strength)


def unsettled(lease: AddressLease, now_ns: int) -> bool:
    return lease.until_ns < FOREVER and now_ns < lease.until_ns + LATE_NS

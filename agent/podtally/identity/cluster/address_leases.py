# SPDX-License-Identifier: Apache-2.0
"""From when to when pods have their addresses, as well as the API lets one tell.

The API gives times in whole seconds, by the clock of each pod's node, and gives them late. So
each end of a hold is known by two bounds: what is possible, and what is sure. An address has
one pod at a time, therefore what is sure of one pod bounds what is possible for another.
"""

from collections.abc import Iterator, Sequence

import msgspec

from podtally.identity.model import DISPUTED, FOREVER, Claim, Owner
from podtally.kube.pods import Life

SECOND_NS = 1_000_000_000
SKEW_NS = SECOND_NS // 10  # between the clocks of two nodes that keep time by NTP
HISTORY_NS = 120 * SECOND_NS  # so long what is gone is remembered
LATE_NS = 5 * SECOND_NS  # after that long an answer of the API is not expected any more
POD_STRENGTH = 10


class AddressLease(msgspec.Struct, gc=False):
    """One pod's hold on one address, CLOCK_MONOTONIC in ns."""

    uid: str
    address: int
    earliest_ns: int  # not before
    certain_ns: int  # it had it by then
    dark_ns: int  # before that somebody unknown may have had it
    proof_ns: int  # it still had it then
    until_ns: int = FOREVER  # not from then on: the last of its containers had ended
    gone_ns: int = FOREVER  # nor had its sandbox, which is the last to go
    reported: bool = True  # the pod's status still has the address

    def learn(self, life: Life, offset_ns: int, at_ns: int) -> None:
        """Take in what a status says that was received at ``at_ns``.

        ``offset_ns`` is what CLOCK_MONOTONIC is ahead of Unix time.
        """
        self.certain_ns = min(self.certain_ns, sure_from(life, offset_ns, at_ns))
        self.dark_ns = min(self.dark_ns, self.certain_ns)
        if life.last_proof_seconds:
            proof_ns = life.last_proof_seconds * SECOND_NS + offset_ns - SKEW_NS
            self.proof_ns = max(self.proof_ns, min(proof_ns, at_ns))
        if life.over:
            self._end(_latest(life.ended_seconds, offset_ns, at_ns))
        if life.gone_seconds:
            self.gone_ns = min(self.gone_ns, _latest(life.gone_seconds, offset_ns, at_ns))

    def end(self, at_ns: int) -> None:
        """It was heard at that time that the pod has the address no more."""
        self.reported = False
        self._end(at_ns)
        self.gone_ns = min(self.gone_ns, at_ns)

    def _end(self, until_ns: int) -> None:
        self.until_ns = min(self.until_ns, max(until_ns, self.earliest_ns))
        self.proof_ns = min(self.proof_ns, self.until_ns)

    def absorb_bounds(self, other: "AddressLease") -> None:
        """Keep what ``other`` bounds, which will be forgotten."""
        self.dark_ns = _dark_until(self, (other,))
        self.earliest_ns, until_ns = bounds(self, (other,))
        self.proof_ns = max(self.proof_ns, self.earliest_ns)
        self._end(until_ns)


def possible_from(life: Life, offset_ns: int) -> int:
    """The kubelet makes no sandbox before it has admitted the pod (``status.startTime``)."""
    return max(0, life.admitted_seconds * SECOND_NS + offset_ns - SKEW_NS)


def sure_from(life: Life, offset_ns: int, at_ns: int) -> int:
    return min(
        _latest(life.sandbox_seconds, offset_ns, at_ns),
        _latest(life.first_start_seconds, offset_ns, at_ns),
    )


def _latest(seconds: int, offset_ns: int, at_ns: int) -> int:
    """The latest that something was which is said, at ``at_ns``, to have been in a second."""
    if not seconds:
        return at_ns
    return max(0, min(at_ns, (seconds + 1) * SECOND_NS + offset_ns + SKEW_NS))


def bounds(hold: AddressLease, others: Sequence[AddressLease]) -> tuple[int, int]:
    """From and until, after what is sure of the other holds on the same address.

    A pod that is stuck in the API (its node is lost) so loses its address to the next that has it.
    """
    start, end = hold.earliest_ns, hold.until_ns
    for other in others:
        if other.certain_ns > hold.certain_ns and other.certain_ns >= hold.proof_ns:
            end = min(end, other.certain_ns)
        elif other.certain_ns < hold.certain_ns and other.proof_ns <= hold.certain_ns:
            start = max(start, other.proof_ns)
    return start, max(start, end)


def _dark_until(hold: AddressLease, others: Sequence[AddressLease]) -> int:
    """Until then another had the address, or at least its sandbox; or that is not known."""
    earlier = (other.gone_ns for other in others if other.certain_ns <= hold.certain_ns)
    return max(hold.dark_ns, min(hold.certain_ns, max(earlier, default=0)))


def claims(
    hold: AddressLease, others: Sequence[AddressLease], owner: Owner, now_ns: int
) -> Iterator[Claim]:
    """What to claim of a hold as of ``now_ns``.

    The last second of a hold that just ended waits, for the next pod may have begun in it
    and not be heard of yet. Of what was in the dark nothing is claimed that is not sure.
    """
    start, end = bounds(hold, others)
    if end < now_ns - HISTORY_NS:
        return
    address, strength = hold.address, POD_STRENGTH
    dark_ns = _dark_until(hold, others)
    if start < dark_ns:
        if start < min(dark_ns, end):
            yield Claim(address, DISPUTED, start, min(dark_ns, end), strength)
        start = dark_ns
    settled_ns = end if not unsettled(hold, now_ns) else min(end, max(start, hold.proof_ns))
    if start < settled_ns:
        yield Claim(address, owner, start, settled_ns, strength)
    if max(start, settled_ns) < end:
        waits = owner._replace(final=False)
        yield Claim(address, waits, max(start, settled_ns), end, strength)


def unsettled(hold: AddressLease, now_ns: int) -> bool:
    return hold.until_ns < FOREVER and now_ns < hold.until_ns + LATE_NS

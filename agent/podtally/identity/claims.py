# SPDX-License-Identifier: Apache-2.0
"""Who had one address, and when: what the sources claim, made into disjoint intervals.

What the sources claim overlaps, contradicts itself and comes late. It is resolved
by these rules:

1. Where claims overlap, the strongest hold, and the others are not asked.
2. Equally strong claims below FACT are bounds from outside, as an API tells them:
   where they name one owner, he has the address; where they name several, nobody can
   tell which, and the owner is DISPUTED, not finally while the end of one may still be
   told: while more than one has not ended.
   One pod told twice (by the same UID) is one owner, in the words of the later claim.
3. Of equally strong claims from FACT on, which this host's own interfaces make, the one
   that began last holds if the others end before it does: an address was handed over. If not,
   somebody has taken what another has, and the owner is DISPUTED.
4. What an interface proves is heard a little late: who gets an address that nobody has,
   has it from GAP_NS before such a claim on, and from FIRST_GAP_NS before it if no earlier
   owner is known, but never while anybody else has a claim.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from podtally.identity.model import DISPUTED, FOREVER, Claim, Owner

FACT = 20  # from this strength on a claim is no bound, but what an interface of this host has
CONFIRMED = FACT + 1  # and the API says the same
GAP_NS = 1_000_000_000
FIRST_GAP_NS = 10_000_000_000

UNSETTLED = DISPUTED._replace(final=False)


class Interval(NamedTuple):
    """From ``from_ns`` on, until before ``until_ns``."""

    from_ns: int
    until_ns: int
    owner: Owner


def resolve(claims: Iterable[Claim]) -> list[Interval]:
    """The claims to one address as disjoint intervals, oldest first."""
    waiting = [claim for claim in claims if claim.from_ns < claim.until_ns]
    waiting.sort(key=_order)
    bounds = sorted({c.from_ns for c in waiting} | {c.until_ns for c in waiting})
    waiting.reverse()
    intervals: list[Interval] = []
    active: list[Claim] = []  # in the same order
    for start, end in pairwise(bounds):
        active = [claim for claim in active if claim.until_ns > start]
        while waiting and waiting[-1].from_ns <= start:
            active.append(waiting.pop())
        if active:
            owner, proved = _holder(active)
            _append(intervals, Interval(start, end, owner), proved)
    return intervals


def _order(claim: Claim) -> tuple[object, ...]:
    """By the beginning, then by name; ports that are not known (None) cannot be compared."""
    ports = claim.owner.ports
    return claim.from_ns, claim.owner._replace(ports=None), ports is not None, ports or ()


def _holder(active: list[Claim]) -> tuple[Owner, bool]:
    """Who has it, and whether an interface of this host proves it."""
    strength = max(claim.strength for claim in active)
    strongest = [claim for claim in active if claim.strength == strength]
    if strength < FACT and len({_identity(claim.owner) for claim in strongest}) > 1:
        open_ended = sum(claim.until_ns == FOREVER for claim in strongest)
        return (UNSETTLED if open_ended > 1 else DISPUTED), False
    last = strongest[-1]
    if strength >= FACT and any(
        claim.until_ns >= last.until_ns and _identity(claim.owner) != _identity(last.owner)
        for claim in strongest
    ):
        return DISPUTED, True
    return last.owner, strength >= FACT


def _identity(owner: Owner) -> tuple[str, ...]:
    """What tells owners apart; labels and workload of the same one may come late or change."""
    return (owner.uid,) if owner.uid else (owner.kind, owner.namespace, owner.name)


def _append(intervals: list[Interval], new: Interval, proved: bool) -> None:
    """Add an interval behind the last, as far back as rule 4 has it; equals become one."""
    if not intervals:
        gap_ns = FIRST_GAP_NS if proved else 0
        intervals.append(new._replace(from_ns=new.from_ns - gap_ns))
        return
    last, gap_ns = intervals[-1], GAP_NS if proved else 0
    new = new._replace(from_ns=max(last.until_ns, new.from_ns - gap_ns))
    if (last.until_ns, last.owner) == (new.from_ns, new.owner):
        intervals[-1] = last._replace(until_ns=new.until_ns)
    else:
        intervals.append(new)

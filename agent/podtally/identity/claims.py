# SPDX-License-Identifier: Apache-2.0
"""Resolves the sources' claims to one address into disjoint intervals.

Claims overlap, contradict each other and come late. The rules:

1. Where claims overlap, only the strongest count.
2. Equally strong claims below FACT are outer bounds, as an API reports them. If they name one
   owner, it has the address. If they name several, the owner is DISPUTED; not final while the
   end of one may still be reported, that is, while more than one has not ended.
   Claims with the same UID are of one owner, as described by the later claim.
3. Of equally strong claims from FACT on, which this host's interfaces make, the latest wins if
   the others end before it does: the address was reassigned. Otherwise two have it, and the
   owner is DISPUTED.
4. Events of interfaces come a little late: the owner of a free address has it from GAP_NS before
   such a claim on, from FIRST_GAP_NS before it if no earlier owner is known, but never while
   another has a claim.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from podtally.identity.model import DISPUTED, FOREVER, Claim, Owner

FACT = 20  # from this strength on a claim is not a bound, but proven by an interface here
CONFIRMED = FACT + 1  # and confirmed by the API
GAP_NS = 1_000_000_000
FIRST_GAP_NS = 10_000_000_000

UNSETTLED = DISPUTED._replace(final=False)


class Interval(NamedTuple):
    """An owner from ``from_ns`` on, until before ``until_ns``."""

    from_ns: int
    until_ns: int
    owner: Owner


def resolve(claims: Iterable[Claim]) -> list[Interval]:
    """Return the owners of one address as disjoint intervals, oldest first."""
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
    """Sort by start, name and end; unknown ports (None) cannot be compared."""
    ports, owner = claim.owner.ports, claim.owner._replace(ports=None)
    return claim.from_ns, owner, ports is not None, ports or (), claim.until_ns


def _holder(active: list[Claim]) -> tuple[Owner, bool]:
    """Return the owner, and whether an interface of this host proves it."""
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
    """Return what identifies an owner; its labels and workload may come late or change."""
    return (owner.uid,) if owner.uid else (owner.kind, owner.namespace, owner.name)


def _append(intervals: list[Interval], new: Interval, proved: bool) -> None:
    """Append an interval, extended back by rule 4, or extend the last one if equal."""
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

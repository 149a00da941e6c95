# SPDX-License-Identifier: Apache-2.0
"""The agent's downtime before a start, and the addresses without a known owner in it.

Only the API reports about that time. It reports the end of a pod seconds late, and until then
the pod would seem to have an address that the next one had already; so its reports on this
node's pods do not count.
"""

from collections.abc import Iterable

from podtally.identity.claims import FACT, FIRST_GAP_NS
from podtally.identity.model import DISPUTED, Claim

_STRENGTH = FACT - 1  # weaker only than an interface that was there before and after


class Downtime:
    """From ``from_ns`` to ``until_ns``; empty at the very first start."""

    def __init__(self) -> None:
        self.from_ns = self.until_ns = 0
        self._addresses: set[int] = set()

    def reaches(self, at_ns: int) -> bool:
        """Return whether a claim that starts at ``at_ns`` would reach back into the downtime."""
        return self.until_ns > 0 and at_ns < self.until_ns + FIRST_GAP_NS

    def mark_disputed(self, addresses: Iterable[int]) -> bool:
        """Note that addresses may have changed owners in it; return whether any is new."""
        before = len(self._addresses)
        self._addresses.update(addresses)
        return len(self._addresses) > before

    def mark_pods_disputed(self, claims: Iterable[Claim]) -> bool:
        """Note the addresses that the API claims for this node's pods; return if any is new."""
        return self.mark_disputed(
            claim.address
            for claim in claims
            if (claim.owner.kind, claim.owner.scope) == ("pod", "node")
            and claim.from_ns < self.until_ns
            and claim.until_ns > self.from_ns
        )

    def claims(self) -> list[Claim]:
        """Return claims that the owner of the noted addresses is DISPUTED."""
        return [
            Claim(address, DISPUTED, self.from_ns, self.until_ns, _STRENGTH)
            for address in sorted(self._addresses)
        ]

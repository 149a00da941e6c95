# SPDX-License-Identifier: Apache-2.0
"""The time before a start when nobody looked at the interfaces: who had which address in doubt.

Of that time there is the word of the API alone. It tells of an end seconds late, and until then
a pod would seem to have what the next one had; so of this node's pods it is not believed.
"""

from collections.abc import Iterable

from podtally.identity.claims import FACT, FIRST_GAP_NS
from podtally.identity.model import DISPUTED, Claim

_STRENGTH = FACT - 1  # than an interface that was there before and after, nothing is stronger


class Downtime:
    """From ``from_ns`` to ``until_ns``; at the first start of all it is no time at all."""

    def __init__(self) -> None:
        self.from_ns = self.until_ns = 0
        self._addresses: set[int] = set()

    def reaches(self, at_ns: int) -> bool:
        """Whether who first has an address then would have had it in the dark as well."""
        return self.until_ns > 0 and at_ns < self.until_ns + FIRST_GAP_NS

    def doubt(self, addresses: Iterable[int]) -> bool:
        """Take note that these may have changed hands in it; True if that is new of any."""
        before = len(self._addresses)
        self._addresses.update(addresses)
        return len(self._addresses) > before

    def mark_pods_disputed(self, claims: Iterable[Claim]) -> bool:
        """The same, of what the API tells of this node's pods."""
        return self.doubt(
            claim.address
            for claim in claims
            if (claim.owner.kind, claim.owner.scope) == ("pod", "node")
            and claim.from_ns < self.until_ns
            and claim.until_ns > self.from_ns
        )

    def claims(self) -> list[Claim]:
        """That nobody can tell who had them."""
        return [
            Claim(address, DISPUTED, self.from_ns, self.until_ns, _STRENGTH)
            for address in sorted(self._addresses)
        ]

# SPDX-License-Identifier: Apache-2.0
"""The names by which one endpoint found one address, as policies are evaluated for them."""

from typing import NamedTuple

# Bits of ``missing``: why an endpoint may know names that are not listed.
NAMES_OFF = 1  # DNS messages are not captured
SEEN_LATE = 2  # the endpoint was there before the agent
MESSAGES_LOST = 4  # the kernel or the parser dropped messages of this endpoint
ENCRYPTED_DNS = 8  # it speaks DNS over TLS, QUIC or HTTPS
FORGOTTEN = 16  # names of this endpoint were dropped at a limit
OTHER_NODE = 32  # it runs on another node; the agent there sees its DNS
MISSING_CAUSES = {
    NAMES_OFF: "DNS is not captured",
    SEEN_LATE: "it was there before the agent",
    MESSAGES_LOST: "DNS messages were lost",
    ENCRYPTED_DNS: "it uses encrypted DNS",
    FORGOTTEN: "names were dropped at a limit",
    OTHER_NODE: "its DNS is seen on its own node",
}


class Answered(NamedTuple):
    """One answer that named the peer's address. Times: wall clock, seconds."""

    name: str  # the queried one, lower case, without a trailing dot
    answered: float
    expires: float
    trusted: bool = True  # from a resolver that counts for verdicts
    is_hint: bool = False  # an address hint of a service record (HTTPS, SVCB): does not count


class KnownNames(NamedTuple):
    """The answers before the connection's first packet, the latest for each name."""

    answers: tuple[Answered, ...] = ()
    at: float = 0.0  # the first packet, wall clock, seconds
    missing: int = NAMES_OFF  # bits; 0: all DNS of the endpoint was seen

    def valid(self) -> "KnownNames":
        """Return them as an implementation sees them that enforces TTLs."""
        return self._replace(answers=tuple(a for a in self.answers if a.expires >= self.at))


NO_NAMES = KnownNames()


def missing_causes(missing: int) -> list[str]:
    """Return in words why names may be missing."""
    return [words for bit, words in MISSING_CAUSES.items() if missing & bit]

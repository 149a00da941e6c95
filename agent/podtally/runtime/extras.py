# SPDX-License-Identifier: Apache-2.0
"""What the checkpoint keeps beside the ledger."""

from typing import NamedTuple

import msgspec

from podtally.identity.interface_endpoints import InterfaceEndpoint
from podtally.ledger.checkpoint.checkpoint import Parts
from podtally.ledger.checkpoint.saved import Saved, encode

_PART = "extras"


class Extras(msgspec.Struct, frozen=True):
    """The endpoints of the interfaces, and the agent's counters about itself."""

    residents: list[InterfaceEndpoint] = []
    own_metrics: dict[str, list[float]] = {}
    known_ns: int = 0  # up to when the endpoints are known, CLOCK_MONOTONIC

    def save(self) -> Parts:
        return {_PART: Saved(encode(self))}


class SavedBeside(NamedTuple):
    """All that is kept beside the ledger."""

    extras: Extras
    names: Parts  # domain names, and where in the ring buffer they end

    def save(self) -> Parts:
        return {**self.extras.save(), **self.names}


def extras_of(parts: Parts) -> Extras:
    """Return what ``save`` returned; SavedError if it cannot be read."""
    return parts[_PART].decode(Extras) if _PART in parts else Extras()

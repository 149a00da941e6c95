# SPDX-License-Identifier: Apache-2.0
"""Keeps, for the history, what was booked of interfaces and belongs to no flow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.checkpoint.saved import Saved

KINDS = ("other", "overflow")

Amounts = NDArray[np.int64]


class InterfaceRest:
    """Amounts by interface slot that are not recorded yet, (slots, 2, 2): direction, kind."""

    def __init__(self) -> None:
        self.bytes = np.zeros((0, 2, 2), np.int64)
        self.packets = np.zeros((0, 2, 2), np.int64)

    def add(
        self,
        slots: NDArray[np.int64],
        direction: NDArray[np.int64],
        bytes_: Amounts,
        packets: Amounts,
    ) -> None:
        """Add amounts (n, 2) of both kinds."""
        self._make_room(int(slots.max(initial=-1)) + 1)
        np.add.at(self.bytes, (slots, direction), bytes_)
        np.add.at(self.packets, (slots, direction), packets)

    def add_other(self, slots: NDArray[np.int64], bytes_: Amounts) -> None:
        """Add bytes (n, 2) from and to the endpoint, of packets that are counted already."""
        self._make_room(int(slots.max(initial=-1)) + 1)
        np.add.at(self.bytes[:, :, 0], slots, bytes_)

    def among(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots that have any amounts. (m,)"""
        slots = slots[slots < len(self.bytes)]
        moved = self.bytes[slots].any(axis=(1, 2)) | self.packets[slots].any(axis=(1, 2))
        return slots[moved]

    def clear(self, slots: NDArray[np.int64]) -> None:
        self.bytes[slots] = self.packets[slots] = 0

    def save(self) -> dict[str, NDArray[Any]]:
        return {"rest_bytes": self.bytes, "rest_packets": self.packets}

    def load(self, saved: Saved) -> None:
        self.bytes, self.packets = saved.array("rest_bytes"), saved.array("rest_packets")

    def _make_room(self, size: int) -> None:
        missing = size - len(self.bytes)
        if missing > 0:
            more = np.zeros((missing, 2, 2), np.int64)
            self.bytes = np.concatenate([self.bytes, more])
            self.packets = np.concatenate([self.packets, more])

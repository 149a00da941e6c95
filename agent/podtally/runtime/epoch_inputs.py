# SPDX-License-Identifier: Apache-2.0
"""What booking an epoch needs besides the kernel's rows: collected before it, passed down."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.tracker import Observed
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.interfaces.balance import Losses


class InterfaceCounters(NamedTuple):
    """Byte counters of interfaces: ``ifindex`` (n,), ``bytes`` (n, 2) from and to the endpoint."""

    ifindex: NDArray[np.int64]
    bytes: NDArray[np.int64]
    losses: Losses | None = None  # of the same interfaces


NO_COUNTERS = InterfaceCounters(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


class EpochInputs(NamedTuple):
    """Names, policies and counters after the flip of an epoch."""

    context: EpochContext
    counters: InterfaceCounters = NO_COUNTERS
    gone: tuple[int, ...] = ()  # interfaces removed before the flip: this is their last epoch
    observed: Observed | None = None  # DNS since the last epoch
    renamed: tuple[int, ...] = ()  # interfaces of endpoints with new names

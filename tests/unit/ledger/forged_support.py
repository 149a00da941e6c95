# SPDX-License-Identifier: Apache-2.0
"""Frames that an endpoint forges, and what is counted of them."""

from collections.abc import Sequence
from typing import Any

from podtally.identity.name_table import Names
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import SPOOFED
from podtally.ledger.series.series import SeriesView
from tests.unit.rows import (
    ACK,
    SECOND,
    SYN,
    TCP,
    Flow,
    to_here,
)
from tests.unit.verdict_support import (
    DB_ADDRESS,
    FAR_ADDRESS,
    declare,
    epoch,
    make,
    present,
)

SYN_ACK = SYN | ACK
T = "198.18.7.7"  # the server, outside
TALK = Flow(T, TCP, 41001, 4444, bytes=(300, 400), packets=(3, 4))


def values(view: SeriesView[Any]) -> list[int]:
    return [first for first, *_ in view.values.tolist()]


def spoofed(ledger: Ledger) -> list[tuple[str, int]]:
    view = ledger.view()[SPOOFED]
    return [(x.workload, n) for x, n in zip(view.labels, values(view), strict=True)]


def settled(texts: Sequence[str], flows: Sequence[Flow], at: Names | None = None) -> Ledger:
    """A ledger that has seen flows, long enough for addresses to have been heard of."""
    ledger = make(undeclared=False)
    epoch(ledger, present(declare(*texts), at, 5 * SECOND), flows)
    return ledger


def flooded_to_web(remote: str = FAR_ADDRESS, local: str = DB_ADDRESS, protocol: int = TCP) -> Flow:
    """What one pod sends to another, and a bridge to web as well."""
    return Flow(remote, protocol, 3306, 40123, local=local, first_direction=1,
                seen=to_here(SYN) if protocol == TCP else 0, bytes=(0, 23), packets=(0, 1))  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Turns of a ledger, and what it has booked."""

from collections.abc import Iterable, Sequence
from typing import Any

from podtally.identity.name_table import Names
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import BOOKS, FLOWS
from podtally.ledger.series.label_sets import BookLabels, FlowLabels
from podtally.ledger.series.series import SeriesView
from tests.unit.rows import (
    SECOND,
    Flow,
    book,
    make_ledger,
    names,
)


def turn(
    ledger: Ledger,
    flows: Sequence[Flow] = (),
    who: Names | None = None,
    gone: Iterable[int] = (),
    now_ns: int = SECOND,
) -> list[ClosedConnections]:
    """One epoch, as the journal books it."""
    who = who or names()
    if flows:
        book(ledger, who, flows, now_ns)
    ended = ledger.settle(EpochContext(who, now_ns), gone)
    for ifindex in gone:
        ledger.let_go(ifindex)
    return ended


def contents(view: SeriesView[Any]) -> dict[Any, list[int]]:
    return dict(zip(view.labels, view.values.tolist(), strict=True))


def flows_of(ledger: Ledger, direction: str = "egress") -> dict[FlowLabels, list[int]]:
    return {k: v for k, v in contents(ledger.view()[FLOWS]).items() if k.direction == direction}


def watched(*ifindexes: int) -> Ledger:
    ledger = make_ledger()
    for ifindex in ifindexes:
        ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (0, 0))
        ledger.interfaces.attached(ifindex, True, (0, 0))
    return ledger


def booked(ledger: Ledger, interface: str, direction: str = "egress") -> list[int]:
    return contents(ledger.view()[BOOKS])[BookLabels(interface, direction)]

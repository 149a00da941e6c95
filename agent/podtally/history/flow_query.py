# SPDX-License-Identifier: Apache-2.0
"""Queries of the history as values, and the rows that answer them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from podtally.errors import PodtallyError
from podtally.history.sqlite_schema import ENDPOINT, JUDGEMENT, PEER
from podtally.yamltree.suggestion import did_you_mean

# What rows can be grouped and filtered by: the labels of the metrics, and more.
NODE = "node"
COLUMNS = (*ENDPOINT, *PEER, *JUDGEMENT, "address", "protocol", "port", "initiator", NODE)
# Words that stand for several columns.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "workload": ("namespace", "workload"),
    "pod": ("namespace", "pod"),
    "peer": ("peer_kind", "peer_namespace", "peer_workload", "scope"),
    "domain": ("peer_domain",),
    "reason": ("policy", "cause"),
    "connection": (
        *("namespace", "pod", "workload", "initiator", "peer_kind", "peer_namespace"),
        *("peer_workload", "peer_domain", "address", "protocol", "port", "scope"),
        *("verdict", "policy", "cause", "outcome"),
    ),
}
CONVERSATION = (
    *("namespace", "workload", "initiator", "peer_kind", "peer_namespace", "peer_workload"),
    *("peer_domain", "address", "protocol", "port", "scope", "verdict"),
)
ORDERS = ("bytes", "connections", "packets", "cost", "first", "last")


class Amount(msgspec.Struct, frozen=True):
    """Bytes or packets that the endpoint sent and received."""

    egress: int = 0
    ingress: int = 0

    @property
    def sum(self) -> int:
        return self.egress + self.ingress


class FlowQuery(NamedTuple):
    """``since`` and ``until`` are seconds since 1970; 0: from the first, up to now.

    ``filters`` are patterns (``*`` matches any text) by column: a row matches if each column
    matches one of its patterns. ``source``, ``destination`` and ``either`` are ends of
    connections, see ``parties``.
    """

    since: float = 0
    until: float = 0
    filters: Mapping[str, Sequence[str]] = {}
    source: str = ""
    destination: str = ""
    either: str = ""
    by: Sequence[str] = CONVERSATION
    top: int = 0  # 0: all
    order: str = "bytes"
    accounts: Sequence[str] = ("flows",)  # of the books; (): all
    only_new: bool = False  # nothing of the same group before ``since``
    prices: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})  # egress, ingress; scopes


class FlowRow(NamedTuple):
    """Sums of the rows that agree in ``labels``; times are seconds since 1970."""

    labels: Mapping[str, str]
    connections: int
    bytes: Amount
    packets: Amount
    first: int
    last: int
    cost: float = 0.0  # dollars

    def plain(self, with_cost: bool = False) -> dict[str, Any]:
        """Return what JSON shows."""
        sums: dict[str, Any] = {
            "connections": self.connections,
            "bytes": msgspec.to_builtins(self.bytes),
            "packets": msgspec.to_builtins(self.packets),
            "first": self.first,
            "last": self.last,
        }
        return {**self.labels, **sums, **({"cost_dollars": self.cost} if with_cost else {})}


class FlowAnswer(NamedTuple):
    """``since`` and ``until`` are those of the data: whole minutes, hours or days."""

    rows: list[FlowRow]
    since: int
    until: int
    groups: int = 0  # before ``top``


def columns_by(words: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that words stand for; PodtallyError for an unknown word."""
    found: dict[str, None] = {}
    for word in words:
        if word not in GROUPS and word not in COLUMNS:
            known = sorted({*GROUPS, *COLUMNS})
            hint = did_you_mean(word, known) or f"use {', '.join(known)}"
            raise PodtallyError(f"--by: unknown column {word!r}", hint)
        found.update(dict.fromkeys(GROUPS.get(word, (word,))))
    return tuple(found)


def merged(parts: Sequence[Sequence[FlowRow]]) -> list[FlowRow]:
    """Return the sums of rows with the same labels."""
    if len(parts) == 1:
        return list(parts[0])
    sums: dict[tuple[str, ...], FlowRow] = {}
    for row in (row for part in parts for row in part):
        key = tuple(row.labels.values())
        other = sums.get(key)
        sums[key] = row if other is None else _added(row, other)
    return list(sums.values())


def ordered(rows: list[FlowRow], query: FlowQuery) -> list[FlowRow]:
    """Return rows as the query wants them: new ones, in its order, the first ones."""
    if query.only_new:
        rows = [row for row in rows if row.first >= query.since]
    keys: dict[str, Callable[[FlowRow], float]] = {
        "bytes": lambda row: row.bytes.sum,
        "connections": lambda row: row.connections,
        "packets": lambda row: row.packets.sum,
        "cost": lambda row: row.cost,
        "first": lambda row: row.first,
        "last": lambda row: row.last,
    }
    key = keys[query.order]
    rows.sort(key=lambda row: (-key(row), tuple(row.labels.values())))
    return rows[: query.top] if query.top else rows


def _added(one: FlowRow, other: FlowRow) -> FlowRow:
    return FlowRow(
        one.labels,
        one.connections + other.connections,
        Amount(one.bytes.egress + other.bytes.egress, one.bytes.ingress + other.bytes.ingress),
        Amount(
            one.packets.egress + other.packets.egress,
            one.packets.ingress + other.packets.ingress,
        ),
        min(one.first, other.first),
        max(one.last, other.last),
        one.cost + other.cost,
    )

# SPDX-License-Identifier: Apache-2.0
"""Writes rows of the history as a table, JSON or CSV."""

import csv
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from podtally.api.schema import Flows
from podtally.commands.shared.arguments import print_json
from podtally.commands.shared.tables import (
    BOLD,
    Cell,
    Style,
    human,
    paint,
    printable,
    style_of,
    table,
    verdict_cell,
)

ARROWS = {"endpoint": "->", "peer": "<-", "unknown": "--"}
_KEPT = ("namespace", "workload", "pod", "peer_kind", "peer_namespace", "peer_workload")
_SUMS = ("connections", "bytes", "packets", "first", "last", "cost_dollars")

Row = Mapping[str, Any]


class _FlowColumn(NamedTuple):
    head: str
    labels: tuple[str, ...]  # that it shows; all of them are there
    cell: Callable[[Row], Cell]


def show(found: Flows, output: str, with_cost: bool, out: TextIO) -> None:
    SHAPES[output](found, with_cost, out)


def table_lines(rows: Sequence[Row], with_cost: bool, style: Style) -> list[str]:
    """Return a line for each row, below the heads."""
    labels = [name for name in rows[0] if name not in _SUMS] if rows else []
    labels = [name for name in labels if name in _KEPT or any(row[name] for row in rows)]
    columns = [*_label_columns(labels), *_sum_columns(with_cost)]
    heads = [Cell(column.head, right=column.head in _RIGHT) for column in columns]
    lines = table([heads, *([column.cell(row) for column in columns] for row in rows)], style)
    return [paint(lines[0], BOLD, style), *lines[1:]]


def _table(found: Flows, with_cost: bool, out: TextIO) -> None:
    if not found.rows:
        out.write(f"nothing from {found.since} to {found.until}\n")
        return
    style = style_of(out)
    for line in table_lines(found.rows, with_cost, style):
        out.write(f"{line}\n")
    sums = [0, 0, 0]
    for row in found.rows:
        sums[0] += row["connections"]
        sums[1] += row["bytes"]["egress"]
        sums[2] += row["bytes"]["ingress"]
    count = (
        f"{len(found.rows)} of {found.groups}"
        if found.groups > len(found.rows)
        else len(found.rows)
    )
    out.write(
        f"\n{count} rows, {sums[0]:,} connections, {human(sums[1])} sent, "
        f"{human(sums[2])} received, from {found.since} to {found.until}\n"
    )


def _json(found: Flows, _: bool, out: TextIO) -> None:
    print_json(found, out)


def _csv(found: Flows, _: bool, out: TextIO) -> None:
    """Write a line for each row; bytes and packets have a column each way."""
    flat = [flat_row(row) for row in found.rows]
    if flat:
        writer = csv.DictWriter(out, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def flat_row(row: Row) -> dict[str, Any]:
    """Return a row without nested values."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{direction}": count for direction, count in value.items()}
        else:
            flat[name] = value
    return flat


SHAPES: Mapping[str, Callable[[Flows, bool, TextIO], None]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
}
_RIGHT = ("CONNECTIONS", "SENT", "RECEIVED", "DOLLARS")


def _label_columns(labels: Sequence[str]) -> list[_FlowColumn]:
    known = (
        _FlowColumn("ENDPOINT", ("namespace", "pod"), lambda row: _joined(row, "namespace", "pod")),
        _FlowColumn(
            "WORKLOAD", ("namespace", "workload"), lambda row: _joined(row, "namespace", "workload")
        ),
        _FlowColumn("", ("initiator",), lambda row: Cell(ARROWS.get(row["initiator"], "--"))),
        _FlowColumn("PEER", ("peer_kind", "peer_namespace", "peer_workload"), _peer),
        _FlowColumn("DOMAIN", ("peer_domain",), lambda row: _text(row["peer_domain"])),
        _FlowColumn(
            "PORT", ("port", "protocol"), lambda row: Cell(f"{row['port']}/{row['protocol']}")
        ),
        _FlowColumn("VERDICT", ("verdict",), lambda row: verdict_cell(row["verdict"])),
    )
    columns, shown = [], set[str]()
    for name in labels:
        if name in shown:
            continue
        column = next(
            (
                each
                for each in known
                if name in each.labels
                and set(each.labels) <= set(labels)
                and not set(each.labels[1:] or each.labels) & shown
            ),
            None,
        )
        if column is None:
            column = _FlowColumn(name.upper(), (name,), lambda row, name=name: _text(row[name]))  # type: ignore[misc]
        columns.append(column)
        shown.update(column.labels)
    return columns


def _sum_columns(with_cost: bool) -> list[_FlowColumn]:
    columns = [
        _FlowColumn("CONNECTIONS", (), lambda row: Cell(f"{row['connections']:,}", right=True)),
        _FlowColumn("SENT", (), lambda row: Cell(human(row["bytes"]["egress"]), right=True)),
        _FlowColumn("RECEIVED", (), lambda row: Cell(human(row["bytes"]["ingress"]), right=True)),
        _FlowColumn("FIRST", (), lambda row: Cell(row["first"])),
        _FlowColumn("LAST", (), lambda row: Cell(row["last"])),
    ]
    if with_cost:
        dollars = _FlowColumn(
            "DOLLARS", (), lambda row: Cell(f"{row['cost_dollars']:.4f}", right=True)
        )
        columns.insert(3, dollars)
    return columns


def _peer(row: Row) -> Cell:
    """Return the peer as ``top`` shows it."""
    kind, namespace, workload = (row[f"peer_{part}"] for part in ("kind", "namespace", "workload"))
    if kind in ("pod", "service") and workload:
        return _text(f"{namespace}/{workload}")
    if workload and workload != kind:
        return _text(f"{kind}:{workload}")
    scope = row.get("scope", "")
    return _text(scope if kind == "external" and scope else kind)


def _joined(row: Row, *names: str) -> Cell:
    parts = [row[name] for name in names if row[name]]
    return _text("/".join(parts))


def _text(text: str) -> Cell:
    return Cell(printable(text) or "-")

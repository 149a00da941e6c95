# SPDX-License-Identifier: Apache-2.0
"""The table in ClickHouse, and blocks of rows as its server reads them."""

import gzip
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from podtally.history.incoming import address_texts
from podtally.history.sqlite_schema import AMOUNTS, ENDPOINT, JUDGEMENT, PEER
from podtally.ledger.recording.history_rows import Batch, HistoryRows

TABLE = "flows"
MAX_BLOCK_ROWS = 100_000  # one part of the table: inserted as a whole, or not at all
OLD = "18.16"  # the oldest server; before codecs, TTL and LowCardinality
RETAINED_DAYS = 90
_DAY_MINUTES = 1440
_TEXTS = (*ENDPOINT, *PEER, *JUDGEMENT)
_LEVEL = 6  # of gzip
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\0": "\\0"})

# In the order of a line: name, type, codec.
_COLUMNS = (
    ("time", "DateTime", "Delta, ZSTD"),
    ("node", "LowCardinality(String)", ""),
    ("stream", "LowCardinality(String)", ""),
    ("batch", "UInt64", "Delta, ZSTD"),
    ("part", "UInt16", "ZSTD"),
    *((name, "LowCardinality(String)", "") for name in _TEXTS),
    ("address", "String", "ZSTD"),
    ("address_hex", "String", "ZSTD"),  # of 16 bytes, to be compared with the ends of networks
    ("protocol", "UInt8", "ZSTD"),
    ("port", "Int32", "ZSTD"),
    ("initiator", "UInt8", "ZSTD"),
    *((name, "UInt64", "T64, ZSTD") for name in AMOUNTS),
    ("first", "DateTime", "Delta, ZSTD"),
    ("last", "DateTime", "Delta, ZSTD"),
)
COLUMN_NAMES = tuple(name for name, _, _ in _COLUMNS)


class InsertBlock(NamedTuple):
    """Rows of one day, which make one part; identified by node, stream, batch and part."""

    part: int
    rows: int
    first: int  # seconds since 1970: minutes of its rows
    last: int
    data: bytes  # gzip of tab-separated lines


def statements(database: str, old: bool = False, days: int = RETAINED_DAYS) -> str:
    """Return the DDL, for a present server or for one of 18.16."""
    columns = ",\n".join(f"    {_column(*each, old=old)}" for each in _COLUMNS)
    ttl = "" if old else f"\nTTL time + INTERVAL {days} DAY"
    note = (
        "-- Without TTL: remove old days yourself, with ALTER TABLE ... DROP PARTITION 20260131.\n"
        if old
        else ""
    )
    return (
        f"{note}CREATE DATABASE IF NOT EXISTS {database};\n\n"
        f"CREATE TABLE IF NOT EXISTS {database}.{TABLE}\n(\n{columns}\n)\n"
        "ENGINE = MergeTree\nPARTITION BY toYYYYMMDD(time)\n"
        f"ORDER BY (namespace, workload, time, peer_kind, address){ttl};\n"
    )


def blocks(batch: Batch, node: str) -> Iterator[InsertBlock]:
    """Yield a batch as blocks: rows of one day each, and not too many."""
    order = np.argsort(batch.rows.minute, kind="stable")
    rows = batch.rows.take(order)
    day = rows.minute // _DAY_MINUTES
    starts = np.flatnonzero(np.append(True, day[1:] != day[:-1])) if len(day) else day
    part = 0
    for begin, end in zip(starts, np.append(starts[1:], len(day)), strict=True):
        for first in range(int(begin), int(end), MAX_BLOCK_ROWS):
            last = min(first + MAX_BLOCK_ROWS, int(end))
            some = rows.take(np.arange(first, last))
            text = "".join(_lines(batch, some, node, part))
            yield InsertBlock(
                part,
                last - first,
                int(some.minute[0]) * 60,
                int(some.minute[-1]) * 60,
                gzip.compress(text.encode(), _LEVEL, mtime=0),
            )
            part += 1


def _lines(batch: Batch, rows: HistoryRows, node: str, part: int) -> Iterator[str]:
    identity = "\t".join((_escaped(node), _escaped(batch.stream), str(batch.number), str(part)))
    labels = ["\t".join(map(_escaped, label)) for label in batch.labels]
    mapped = np.ascontiguousarray(rows.address).tobytes()
    columns = (
        rows.minute * 60,
        rows.label,
        *(rows.protocol, rows.port, rows.initiator),
        *(rows.bytes[:, 0], rows.bytes[:, 1], rows.packets[:, 0], rows.packets[:, 1]),
        rows.connections,
        *(rows.first_ns // 10**9, rows.last_ns // 10**9),
    )
    texts = address_texts(rows.address)
    for place, (time, label, *rest) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        address = f"{texts[place]}\t{mapped[16 * place : 16 * place + 16].hex()}"
        numbers = "\t".join(map(str, rest))
        yield f"{time}\t{identity}\t{labels[label]}\t{address}\t{numbers}\n"


def _column(name: str, type_: str, codec: str, old: bool) -> str:
    if old:
        return f"{name} {'String' if 'String' in type_ else type_}"
    return f"{name} {type_}{f' CODEC({codec})' if codec else ''}"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def names(columns: Sequence[str] = COLUMN_NAMES) -> str:
    return ", ".join(columns)

# SPDX-License-Identifier: Apache-2.0
"""Writes the rows of a store as CSV, JSON lines or Parquet."""

import csv
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

import msgspec

from podtally.errors import PodtallyError
from podtally.history.errors import StoreError
from podtally.history.label_text import label_text
from podtally.history.sqlite_schema import ENDPOINT, JUDGEMENT, PEER
from podtally.history.sqlite_schema import TIERS as _TIERS
from podtally.history.store import check_identity
from podtally.history.text_sums import verify_texts

_CHUNK = 10_000  # rows in memory at once
_TEXTS = (*ENDPOINT, *PEER, *JUDGEMENT, "address", "protocol", "port", "initiator")

Row = Sequence[Any]


def export(
    path: Path, interval: str, window: tuple[float, float], format_: str, out: Path | TextIO
) -> None:
    """Write the rows of a window (seconds since 1970); PodtallyError if that is not possible."""
    assert interval in {tier.table for tier in _TIERS}
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            check_identity(db)
            verify_texts(db, conversations=True)
            cursor = db.execute(
                f"SELECT * FROM {interval}s WHERE time >= ? AND time < ? ORDER BY time", window
            )
            columns = [each[0] for each in cursor.description]
            _write(columns, _readable(columns, cursor), format_, out)
        finally:
            db.close()
    except (sqlite3.Error, StoreError) as error:
        raise PodtallyError(f"the history {path} cannot be read: {error}") from None
    except OSError as error:
        raise PodtallyError(f"cannot write the export: {error.strerror}", "check --file") from None


def _readable(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[Row]:
    protocol, port = columns.index("protocol"), columns.index("port")
    for row in rows:
        cells = list(row)
        cells[protocol] = label_text("protocol", row[protocol])
        cells[port] = label_text("port", row[port])
        yield cells


def _write(columns: Sequence[str], rows: Iterator[Row], format_: str, out: Path | TextIO) -> None:
    if format_ == "parquet":
        _write_parquet(columns, rows, out)
    elif isinstance(out, Path):
        with out.open("w", newline="") as file:
            _write_text(columns, rows, format_, file)
    else:
        _write_text(columns, rows, format_, out)


def _write_text(columns: Sequence[str], rows: Iterator[Row], format_: str, out: TextIO) -> None:
    if format_ == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return
    for row in rows:
        out.write(msgspec.json.encode(dict(zip(columns, row, strict=True))).decode() + "\n")


def _write_parquet(columns: Sequence[str], rows: Iterator[Row], out: Path | TextIO) -> None:
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise PodtallyError(
            "Parquet needs pyarrow", "pip install 'podtally[parquet]', or use --format csv"
        ) from None
    types = [pyarrow.string() if name in _TEXTS else pyarrow.int64() for name in columns]
    schema = pyarrow.schema(list(zip(columns, types, strict=True)))
    target: str | IO[bytes] = str(out) if isinstance(out, Path) else out.buffer
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        while chunk := list(itertools.islice(rows, _CHUNK)):
            cells = list(zip(*chunk, strict=True))
            arrays = [
                pyarrow.array(column, type_) for column, type_ in zip(cells, types, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

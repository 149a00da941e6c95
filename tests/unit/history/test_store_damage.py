# SPDX-License-Identifier: Apache-2.0
"""Stores with wrong values, or of another version: what is found, read and refused."""

import contextlib
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.errors import PodtallyError
from podtally.history.errors import StoreError
from podtally.history.export import export
from podtally.history.sqlite_schema import CREATE
from podtally.history.store import Store, set_aside
from podtally.history.text_sums import DICTIONARIES
from tests.unit.history.test_store import LABELS, START, asked, batch, path, sums, write

__all__ = ["path"]


def test_a_wrong_value_is_found_before_it_is_shown(path: Path) -> None:
    store = Store(path)
    write(store, [batch(0, START, 5)])
    store.connection.execute(
        "UPDATE minute SET bytes_egress = bytes_egress + 1 WHERE id = (SELECT max(id) FROM minute)"
    )
    store.close()
    with pytest.raises(StoreError, match="damaged"):
        asked(path)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("endpoint", "pod = 'web-9'"),
        ("peer", "peer_workload = 'bank'"),
        ("judgement", "verdict = 'allowed'"),
        ("conversation", "address = '203.0.0.99'"),
        ("conversation", "endpoint = endpoint % 2 + 1"),
    ],
)
def test_a_wrong_name_is_found_before_it_is_shown(path: Path, table: str, change: str) -> None:
    store = Store(path)
    write(store, [batch(0, START, 5)])
    last = f"(SELECT max(id) FROM {table} WHERE id < 5)"
    store.connection.execute(f"UPDATE {table} SET {change} WHERE id = {last}")
    store.close()
    with pytest.raises(StoreError, match=f"'{table}' is damaged"):
        asked(path)
    with pytest.raises(PodtallyError, match="is damaged"):
        export(path, "minute", (0, 1 << 60), "csv", io.StringIO())
    with pytest.raises(StoreError, match="is damaged"):
        Store(path)


def earlier(path: Path) -> sqlite3.Connection:
    """Make a store as it was before texts had sums."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA auto_vacuum = INCREMENTAL;" + CREATE)
    return db


def test_a_store_of_an_earlier_version_is_read_and_goes_on(path: Path) -> None:
    db = earlier(path)
    for name in DICTIONARIES:
        assert "sum" not in [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
    batches = [batch(i, START + i, 5) for i in range(4)]
    with monkeypatched_sums():
        store = Store(path)
        write(store, batches[:2])
        store.close()
    db.close()
    assert asked(path) == sums(batches[:2])  # by a reader, before any writer opens it
    store = Store(path)
    write(store, batches[2:3])
    store.close()
    assert asked(path) == sums(batches[:3])
    with monkeypatched_sums():  # an earlier version goes on with it
        store = Store(path)
        other = batches[3]._replace(labels=[each._replace(pod="new") for each in LABELS])
        write(store, [other])
        store.close()
    assert asked(path) == sums(batches)
    store = Store(path)
    for name in DICTIONARIES:
        missing = store.connection.execute(f"SELECT count(*) FROM {name} WHERE sum IS NULL")
        assert missing.fetchone() == (0,)
    store.close()


@contextlib.contextmanager
def monkeypatched_sums() -> Iterator[None]:
    """Write as a version without sums does."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("prepare", "fill", "verify_texts"):
            patched.setattr(f"podtally.history.text_sums.{name}", lambda *_, **__: None)
        yield


def test_a_file_of_another_version_is_refused(path: Path) -> None:
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="version 99"):
        Store(path)
    aside = set_aside(path)
    assert aside.exists()
    Store(path).close()


def test_the_views_name_everything(path: Path) -> None:
    store = Store(path)
    write(store, [batch(0, START, 5)])
    db = store.connection
    db.row_factory = sqlite3.Row
    row = db.execute("SELECT * FROM minutes WHERE verdict = 'denied'").fetchone()
    assert (row["time"], row["first"], row["last"]) == (START * 60, START * 60 + 7, START * 60 + 23)
    assert (row["pod"], row["address"], row["initiator"]) == ("web-3", "203.0.0.3", "endpoint")
    store.close()


def test_the_queries_of_the_page_run(path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "history.md").read_text()
    queries = page.partition("```sql\n")[2].partition("```")[0]
    store = Store(path)
    write(store, [batch(0, START, 5)])
    statements = [each for each in queries.split(";\n") if each.strip()]
    assert len(statements) >= 10
    for each in statements:
        store.connection.execute(each).fetchall()
    store.close()

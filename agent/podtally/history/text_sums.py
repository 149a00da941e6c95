# SPDX-License-Identifier: Apache-2.0
"""Check sums of the embedded store's texts and conversations: a wrong name is found, not shown.

A column ``sum`` of each dictionary. Files of earlier versions get it when a writer opens them;
rows that such a version adds later have none, until the next writer.
"""

import sqlite3
import zlib

from podtally.history.errors import StoreError
from podtally.history.sqlite_schema import ENDPOINT, JUDGEMENT, KEY, PEER

DICTIONARIES = {"endpoint": ENDPOINT, "peer": PEER, "judgement": JUDGEMENT}
_TABLES = {**DICTIONARIES, "conversation": KEY}


def prepare(db: sqlite3.Connection) -> None:
    """Give a store that is open for writing the columns, and its rows their sums."""
    _add_function(db)
    for name in _TABLES:
        if not _has_sums(db, name):
            db.execute(f"ALTER TABLE {name} ADD COLUMN sum INTEGER")
        # Only rows without a sum are in it: they are found without a search.
        db.execute(f"CREATE INDEX IF NOT EXISTS {name}_unsummed ON {name} (id) WHERE sum IS NULL")
    fill(db)


def fill(db: sqlite3.Connection) -> None:
    """Give new rows their sums."""
    for name in _TABLES:
        db.execute(f"UPDATE {name} SET sum = {_sum(name)} WHERE sum IS NULL")


def verify_texts(db: sqlite3.Connection, *, conversations: bool = False) -> None:
    """Compare all texts, and conversations, with their sums; StoreError if one differs."""
    _add_function(db)
    for name in _TABLES if conversations else DICTIONARIES:
        if not _has_sums(db, name):
            continue
        if db.execute(f"SELECT 1 FROM {name} WHERE sum != {_sum(name)} LIMIT 1").fetchone():
            raise StoreError(f"its table {name!r} is damaged")


def is_wrong(db: sqlite3.Connection, alias: str) -> str:
    """Return an expression: whether a conversation differs from its sum."""
    if not _has_sums(db, "conversation"):
        return "0"
    _add_function(db)
    return f"{alias}.sum != {_sum('conversation', f'{alias}.')}"


def _sum(name: str, alias: str = "") -> str:
    return f"text_sum({', '.join(f'{alias}{each}' for each in ('id', *_TABLES[name]))})"


def _add_function(db: sqlite3.Connection) -> None:
    db.create_function("text_sum", -1, _text_sum, deterministic=True)


def _text_sum(*values: object) -> int:
    return zlib.crc32(repr(values).encode()) & 0x7FFFFF  # three bytes in SQLite


def _has_sums(db: sqlite3.Connection, name: str) -> bool:
    return any(column[1] == "sum" for column in db.execute(f"PRAGMA table_info({name})"))

# SPDX-License-Identifier: Apache-2.0
"""Finds the numbers of conversations; recent ones are remembered."""

import sqlite3

from podtally.history.errors import StoreError
from podtally.history.incoming import ConversationKeys
from podtally.history.recent_numbers import RecentNumbers
from podtally.history.sqlite_schema import KEY, MAX_CONVERSATION

_REMEMBERED = 5_000  # of a batch; some 200 bytes each
_FIND = "SELECT id FROM conversation WHERE " + " AND ".join(f"{each} = ?" for each in KEY)
_MAKE = f"INSERT INTO conversation ({', '.join(KEY)}) VALUES ({', '.join('?' * len(KEY))})"


class ConversationNumbers:
    """Valid as long as no conversation is removed, and no transaction is undone."""

    def __init__(self) -> None:
        self.remembered: RecentNumbers[bytes] = RecentNumbers(_REMEMBERED)

    def numbers(self, db: sqlite3.Connection, keys: ConversationKeys) -> list[int]:
        """Return the numbers of conversations (n,); new ones are made."""
        packed = keys.packed()
        found = list(map(self.remembered.find, packed))
        missing = [row for row, number in enumerate(found) if number is None]
        for row, values in zip(missing, keys.at(missing), strict=True):
            number = self.remembered.find(packed[row])  # it may be there twice
            if number is None:
                number = _number(db, values)
                self.remembered.put(packed[row], number)
            found[row] = number
        return [number for number in found if number is not None]


def _number(db: sqlite3.Connection, values: tuple[int | str, ...]) -> int:
    known = db.execute(_FIND, values).fetchone()
    number = int(known[0]) if known else db.execute(_MAKE, values).lastrowid
    if number is None or number > MAX_CONVERSATION:
        raise StoreError("it has no numbers left for conversations")
    return number

# SPDX-License-Identifier: Apache-2.0
"""Answers queries from a history file, without its agent."""

import sqlite3
from pathlib import Path

from podtally.api.flows import flows_reply
from podtally.api.schema import Flows
from podtally.errors import PodtallyError
from podtally.history.errors import StoreError
from podtally.history.query_text import Prices, Words, parse_query
from podtally.history.reader import HistoryReader


def flows_of_file(path: Path, words: Words, prices: Prices, node: str = "") -> Flows:
    """Return what the file has; PodtallyError if it cannot be read."""
    query = parse_query(words, prices)
    try:
        reader = HistoryReader(path)
        try:
            answer = reader.answer(query, node=node)
        finally:
            reader.close()
    except FileNotFoundError as error:
        raise PodtallyError(str(error), "give the file with --store") from None
    except (sqlite3.Error, StoreError, OSError) as error:
        raise PodtallyError(
            f"the history {path} cannot be read: {error}", "is it podtally's, and readable?"
        ) from None
    return flows_reply(answer, any(prices))

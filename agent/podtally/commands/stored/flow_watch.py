# SPDX-License-Identifier: Apache-2.0
"""``podtally flows --watch``: lines for new and changed conversations, as they happen."""

import signal
import time
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from podtally.api import schema
from podtally.commands.shared import agent_query
from podtally.commands.shared.agent_query import AgentAddress
from podtally.commands.shared.tables import style_of
from podtally.commands.stored.flow_output import table_lines
from podtally.errors import PodtallyError

_PAUSE_SECONDS = 0.5  # at least; the agent answers at the end of its epoch
_SHOWN_SECONDS = 300  # of conversations that are still compared

Row = Mapping[str, Any]


def watch(agent: AgentAddress, words: Mapping[str, list[str]], output: str, out: TextIO) -> int:
    """Write lines until Ctrl-C; ``bytes`` are what was added since the line before."""
    if output == "csv":
        raise PodtallyError("--watch writes a table or JSON lines", "use -o json")
    # The only way to end it, even for a background job that inherited SIGINT as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = int(time.time())
    wanted = {**words, "since": [str(start)], "by": ["connection"]}
    wanted = {name: each for name, each in wanted.items() if name not in ("until", "top", "new")}
    known: dict[tuple[str, ...], Row] = {}
    is_first = True
    while True:
        wanted["since"] = [str(max(start, int(time.time()) - _SHOWN_SECONDS))]
        found = agent_query.query_words(agent, schema.FLOWS, schema.Flows, wanted)
        news = []
        for row in found.rows:
            key = tuple(value for value in row.values() if isinstance(value, str))[:-2]
            change = _change(row, known.get(key))
            known[key] = row
            if change is not None and not is_first:
                news.append(change)
        is_first = False
        _write(sorted(news, key=lambda row: str(row["last"])), output, out)
        time.sleep(_PAUSE_SECONDS)


def _change(row: Row, before: Row | None) -> Row | None:
    """Return what is new of a row; None if nothing is."""
    if before is None:
        return row
    added = {
        name: {way: max(0, row[name][way] - before[name][way]) for way in row[name]}
        for name in ("bytes", "packets")
    }
    if not any(any(each.values()) for each in added.values()):
        return None
    connections = max(0, row["connections"] - before["connections"])
    return {**row, **added, "connections": connections}


def _write(rows: list[Row], output: str, out: TextIO) -> None:
    if not rows:
        return
    if output == "json":
        out.writelines(msgspec.json.encode(row).decode() + "\n" for row in rows)
    else:
        style = style_of(out)
        lines = table_lines(rows, False, style)
        out.writelines(f"{line}\n" for line in lines[1:])
    out.flush()

# SPDX-License-Identifier: Apache-2.0
"""Shapes the answer of a query of the history for JSON."""

import datetime

from podtally.api.schema import Flows
from podtally.history.flow_query import FlowAnswer


def flows_reply(answer: FlowAnswer, with_cost: bool) -> Flows:
    """Return the reply, with times of RFC 3339 in UTC."""
    rows = []
    for row in answer.rows:
        plain = row.plain(with_cost)
        plain["first"], plain["last"] = (time_text(plain[each]) for each in ("first", "last"))
        rows.append(plain)
    return Flows(time_text(answer.since), time_text(answer.until), rows, answer.groups)


def time_text(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")

# SPDX-License-Identifier: Apache-2.0
"""Makes the snapshot of ``top --since`` from the history."""

import datetime
import time
from collections import defaultdict

from podtally.api import schema
from podtally.commands.shared import agent_query, times
from podtally.commands.shared.agent_query import AgentAddress
from podtally.commands.traffic.conversations import (
    Book,
    Conversation,
    ConversationCounts,
    TrafficSnapshot,
    totals,
)
from podtally.ledger.metrics.failures import is_failure

_OPENED_BY = {"endpoint": 2, "peer": 3}  # the place of the count
_FAILED = 4


def snapshot_since(agent: AgentAddress, text: str, books: tuple[Book, ...]) -> TrafficSnapshot:
    """Return the traffic since a time; PodtallyError if it is invalid, or no agent answers."""
    since = times.parse(text, datetime.datetime.now().astimezone(), "--since")
    by = ",".join((*Conversation._fields, "initiator", "outcome"))
    words = {"since": [since.isoformat()], "by": [by]}
    found = agent_query.query_words(agent, schema.FLOWS, schema.Flows, words)
    sums: dict[Conversation, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for row in found.rows:
        counts = sums[Conversation(*(row[name] for name in Conversation._fields))]
        counts[0] += row["bytes"]["egress"]
        counts[1] += row["bytes"]["ingress"]
        if row["initiator"] in _OPENED_BY:
            counts[_OPENED_BY[row["initiator"]]] += row["connections"]
            if is_failure(row["outcome"], row["protocol"]):
                counts[_FAILED] += row["connections"]
    conversations = {each: ConversationCounts(*counts) for each, counts in sums.items()}
    return TrafficSnapshot(time.monotonic(), conversations, books, totals(conversations))

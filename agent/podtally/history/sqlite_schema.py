# SPDX-License-Identifier: Apache-2.0
"""The tables of the embedded store; docs/history.md describes them for readers.

Rows refer to a conversation, and that to dictionary tables: a row takes some 28 bytes. Times
count from 2020-01-01 UTC, which saves a byte in each.
"""

from typing import NamedTuple

VERSION = 1
APPLICATION = 0x70_6F_64_74  # "podt": PRAGMA application_id
BASE_SECONDS = 1_577_836_800  # 2020-01-01
INITIATORS = ("unknown", "endpoint", "peer")  # by INITIATOR_*


class Tier(NamedTuple):
    """A table of sums by interval and conversation."""

    table: str  # and its view, in the plural
    seconds: int  # of an interval
    span: int  # first * span + last, in seconds of the interval, is the column ``span``


MINUTE, HOUR, DAY = Tier("minute", 60, 64), Tier("hour", 3600, 4096), Tier("day", 86400, 131072)
TIERS = (MINUTE, HOUR, DAY)  # the finest first

ENDPOINT = ("interface", "account", "namespace", "pod", "uid", "workload", "workload_kind")
PEER = ("peer_kind", "peer_namespace", "peer_workload", "peer_domain", "scope")
JUDGEMENT = ("verdict", "policy", "cause", "outcome")
KEY = ("endpoint", "peer", "judgement", "address", "protocol", "port", "initiator")
# The id of a row is its interval and its conversation: sorted by time, and short.
CONVERSATION_BITS = 27
MAX_CONVERSATION = (1 << CONVERSATION_BITS) - 1
AT, CONVERSATION = f"id >> {CONVERSATION_BITS}", f"id & {MAX_CONVERSATION}"
# Any one wrong value, and a row that is missing, makes another sum of an interval. In floating
# point, since sums of integers may overflow.
CHECK = (
    "id % 1048573 + 3.0 * bytes_egress + 5.0 * bytes_ingress + 7.0 * packets_egress"
    " + 11.0 * packets_ingress + 13.0 * connections + 17 * span"
)
AMOUNTS = ("bytes_egress", "bytes_ingress", "packets_egress", "packets_ingress", "connections")


def _dictionary(name: str, columns: tuple[str, ...]) -> str:
    listed = ", ".join(f"{each} TEXT NOT NULL" for each in columns)
    return f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {listed}, UNIQUE ({', '.join(columns)}));"


def _tier(tier: Tier) -> str:
    amounts = ", ".join(f"{each} INTEGER NOT NULL" for each in AMOUNTS)
    return f"CREATE TABLE {tier.table} (id INTEGER PRIMARY KEY, {amounts}, span INTEGER NOT NULL);"


def _view(tier: Tier) -> str:
    begin = f"({BASE_SECONDS} + (t.{AT}) * {tier.seconds})"
    names = ", ".join((*ENDPOINT, *PEER, *JUDGEMENT))
    initiators = " ".join(f"WHEN {number} THEN '{word}'" for number, word in enumerate(INITIATORS))
    return (
        f"CREATE VIEW {tier.table}s AS SELECT {begin} AS time, {names}, address, protocol, port, "
        f"CASE initiator {initiators} END AS initiator, {', '.join(AMOUNTS)}, "
        f"{begin} + span / {tier.span} AS first, {begin} + span % {tier.span} AS last "
        f"FROM {tier.table} AS t JOIN conversation AS c ON c.id = t.{CONVERSATION} "
        "JOIN endpoint AS e ON e.id = c.endpoint JOIN peer AS p ON p.id = c.peer "
        "JOIN judgement AS j ON j.id = c.judgement;"
    )


CREATE = "\n".join(
    (
        _dictionary("endpoint", ENDPOINT),
        _dictionary("peer", PEER),
        _dictionary("judgement", JUDGEMENT),
        "CREATE TABLE conversation (id INTEGER PRIMARY KEY, endpoint INTEGER NOT NULL, "
        "peer INTEGER NOT NULL, judgement INTEGER NOT NULL, address TEXT NOT NULL, "
        "protocol INTEGER NOT NULL, port INTEGER NOT NULL, initiator INTEGER NOT NULL, "
        f"UNIQUE ({', '.join(KEY)}));",
        *map(_tier, TIERS),
        *map(_view, TIERS),
        # The last batch of each stream; what has a lower number is written already.
        "CREATE TABLE stream (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;",
        # How many rows an interval has, and the sum of CHECK over them; readers compare.
        "CREATE TABLE chunk (tier TEXT NOT NULL, at INTEGER NOT NULL, rows INTEGER NOT NULL, "
        "sum REAL NOT NULL, PRIMARY KEY (tier, at)) WITHOUT ROWID;",
        # Up to which interval (exclusive) a tier is complete; kept: from which it is retained.
        "CREATE TABLE tier (name TEXT PRIMARY KEY, until INTEGER, kept INTEGER) WITHOUT ROWID;",
        *(f"INSERT INTO tier VALUES ('{each.table}', NULL, NULL);" for each in TIERS),
        # Blocks for ClickHouse that its server has not confirmed.
        "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, "
        "number INTEGER NOT NULL, part INTEGER NOT NULL, rows INTEGER NOT NULL, "
        "first INTEGER NOT NULL, last INTEGER NOT NULL, block BLOB NOT NULL);",
        f"PRAGMA application_id = {APPLICATION};",
        f"PRAGMA user_version = {VERSION};",
    )
)

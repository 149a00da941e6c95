# SPDX-License-Identifier: Apache-2.0
"""Answers queries from ClickHouse, with the rows of every node."""

import ipaddress
import time
from collections.abc import Mapping

from podtally.history.clickhouse import ClickHouseClient, quoted
from podtally.history.clickhouse_schema import TABLE
from podtally.history.conditions import Network, where
from podtally.history.flow_query import Amount, FlowAnswer, FlowQuery, FlowRow, ordered
from podtally.history.label_text import label_text
from podtally.history.sqlite_schema import AMOUNTS


class ClickHouseDialect:
    is_cluster = True

    def text(self, value: str) -> str:
        return quoted(value)

    def like(self, column: str, pattern: str) -> str:
        for special in ("\\", "%", "_"):
            pattern = pattern.replace(special, f"\\{special}")
        return f"{column} LIKE {quoted(pattern.replace('*', '%'))}"

    def within(self, column: str, network: Network) -> str:
        del column  # the addresses as bytes can be compared
        first, last = (_mapped(network[place]) for place in (0, -1))
        return f"(address_hex >= '{first}' AND address_hex <= '{last}')"


def answer(client: ClickHouseClient, query: FlowQuery) -> FlowAnswer:
    """Answer a query; ServerError or UncertainError if the server does not."""
    until = query.until or time.time() + 60
    first, last = int(query.since) // 60 * 60, -(-int(until) // 60) * 60
    text = statement(query, first, last, client.settings.database)
    rows = [_row(query, each) for each in client.select(text) if each["n"]]
    return FlowAnswer(ordered(rows, query), first, min(last, int(time.time())), len(rows))


def statement(query: FlowQuery, first: int, last: int, database: str) -> str:
    """Return the SELECT of a query for minutes from ``first`` to before ``last``."""
    sums = ", ".join(f"sum({each}) AS sum_{each}" for each in AMOUNTS)
    by = ", ".join(query.by)
    begin = 0 if query.only_new else first
    having = f" HAVING min_first >= toDateTime({int(query.since)})" if query.only_new else ""
    return (
        f"SELECT {by}{', ' if by else ''}{sums}, toUnixTimestamp(min(first)) AS first_seconds, "
        f"toUnixTimestamp(max(last)) AS last_seconds, min(first) AS min_first, "
        f"{_cost(query)} AS cost, count() AS n "
        f"FROM {database}.{TABLE} WHERE time >= toDateTime({begin}) "
        f"AND time < toDateTime({last}) AND {where(query, ClickHouseDialect())}"
        f"{f' GROUP BY {by}' if by else ''}{having}"
    )


def _cost(query: FlowQuery) -> str:
    cases: list[str] = []
    for column, prices in zip(AMOUNTS[:2], query.prices, strict=True):
        cases += [
            f"{column} * (scope = {quoted(scope)}) * {price:.6f}" for scope, price in prices.items()
        ]
    return f"sum(({' + '.join(cases)}) / 1e9)" if cases else "0"


def _row(query: FlowQuery, found: Mapping[str, object]) -> FlowRow:
    def number(name: str) -> int:
        return int(str(found[name]))

    return FlowRow(
        {name: label_text(name, found[name]) for name in query.by},
        number("sum_connections"),
        Amount(number("sum_bytes_egress"), number("sum_bytes_ingress")),
        Amount(number("sum_packets_egress"), number("sum_packets_ingress")),
        number("first_seconds"),
        number("last_seconds"),
        float(str(found["cost"])),
    )


def _mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    packed = address.packed
    return (packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed).hex()

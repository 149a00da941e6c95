# SPDX-License-Identifier: Apache-2.0
"""Peers of a workload in a week, asked of a real ClickHouse server with generated rows."""

import statistics
import time
from pathlib import Path

from bench.report import Report, progress
from podtally.history.clickhouse_query import answer
from podtally.history.clickhouse_schema import statements
from podtally.history.flow_query import FlowQuery, columns_by
from tests.e2e.clickhouse import ClickHouseServer

START_SECONDS = 1_750_000_000 // 86400 * 86400
_CHUNK = 1_000_000
_NODES, _WORKLOADS, _PEERS = 100, 500, 40


def measure(root: Path, rows: int, report: Report) -> None:
    server = ClickHouseServer(root / "clickhouse")
    server.start()
    try:
        server.wait_ready()
        for statement in statements("podtally", old=True).split(";\n"):
            if statement.strip():
                server.client.execute(statement)
        for begin in range(0, rows, _CHUNK):
            progress(f"generating {begin + _CHUNK:,} of {rows:,} rows in ClickHouse")
            server.client.execute(_generate(begin, min(_CHUNK, rows - begin), rows))
        query = FlowQuery(
            since=START_SECONDS, until=START_SECONDS + 7 * 86400,
            by=columns_by(["peer", "address"]),
            filters={"namespace": ["team-1"], "workload": ["web-1"]},
        )  # fmt: skip
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            found = answer(server.client, query)
            taken.append(time.perf_counter() - begun)
        assert found.rows
        seconds = statistics.median(taken)
        what = "ClickHouse: peers of a workload in a week, s"
        report.rows.append((what, rows, round(seconds, 3), 1.0, seconds <= 1.0))
        table = "database = 'podtally' AND active"
        size = server.client.select(
            f"SELECT sum(bytes_on_disk) AS n FROM system.parts WHERE {table}"
        )
        per_row = int(size[0]["n"]) / rows
        report.rows.append(
            ("ClickHouse: bytes on disk per row", rows, round(per_row, 1), 40, per_row <= 40)
        )
    finally:
        server.kill()


def _generate(begin: int, count: int, rows: int) -> str:
    """Return the INSERT of rows that are spread over a week."""
    w = f"(number % {_WORKLOADS})"
    return f"""
        INSERT INTO podtally.flows (time, node, stream, batch, part, interface, account, namespace,
            pod, uid, workload, workload_kind, peer_kind, peer_namespace, peer_workload, scope,
            verdict, address, protocol, port, initiator, bytes_egress, bytes_ingress,
            packets_egress, packets_ingress, connections, first, last)
        SELECT toDateTime({START_SECONDS} + intDiv(number * 10080, {rows}) * 60) AS t,
            concat('node-', toString(number % {_NODES})), 'stream', intDiv(number, 1000), 0,
            concat('veth', toString({w})), 'flows', concat('team-', toString({w} % 5)),
            concat('web-', toString({w}), '-5d9f-', toString(number % 7)),
            concat('8a4f-', toString({w}), '-', toString(number % 7)),
            concat('web-', toString({w})), 'Deployment', 'pod', 'team-2',
            concat('backend-', toString(intHash32(number) % {_PEERS})), 'zone', 'allowed',
            concat('10.1.', toString(intHash32(number) % {_PEERS}), '.', toString(number % 4)),
            6, 443, 1, intHash32(number) % 1000000, intHash32(number + 1) % 1000000,
            intHash32(number) % 1000, intHash32(number + 1) % 1000, number % 5, t, t + 59
        FROM (SELECT number + {begin} AS number FROM system.numbers LIMIT {count})"""

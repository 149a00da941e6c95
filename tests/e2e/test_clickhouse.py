# SPDX-License-Identifier: Apache-2.0
"""The history in ClickHouse: real servers, killed while they take it; each row once."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from podtally.config.structs import ClickHouseTls
from podtally.errors import PodtallyError
from podtally.history import clickhouse_query
from podtally.history.clickhouse import BlockIdentity, ClickHouseClient, ServerError, UncertainError
from podtally.history.clickhouse_schema import blocks, statements
from podtally.history.flow_query import FlowAnswer, FlowQuery, columns_by
from podtally.history.forwarder import Forwarder
from podtally.history.reader import HistoryReader
from podtally.history.retention import StoreLimits
from podtally.history.writer import HistoryWriter
from podtally.ledger.recording.history_rows import Batch
from tests.apiserver.certificates import Authority
from tests.e2e.clickhouse import ClickHouseServer
from tests.unit.history.test_store import DAY_MINUTES, START, batch

NODE = "node-a"
LIMITS = StoreLimits(1 << 30, 0)
QUERIES = [
    FlowQuery(by=("workload", "verdict"), accounts=()),
    FlowQuery(by=columns_by(["peer", "port", "protocol", "initiator"]), order="connections"),
    FlowQuery(by=("address",), filters={"pod": ["web-*"]}, top=7),
    FlowQuery(source="shop/web", destination="internet", by=("pod",)),
    FlowQuery(either="203.0.0.0/30", by=("address",), prices=({"internet": 0.09}, {})),
    FlowQuery(either="2001:db8::/32", by=("address",)),
    FlowQuery(filters={"workload": ["it's", "w\\eb", "100%"]}, by=("workload",)),
    FlowQuery(since=(START + 2) * 60, by=("address",), only_new=True),
    FlowQuery(by=columns_by(["node", "workload"]), filters={"node": ["node-*", "other"]}),
    FlowQuery(by=("node",), filters={"node": ["node"]}),
]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(started: ClickHouseServer) -> ClickHouseServer:
    for statement in ("DROP DATABASE IF EXISTS podtally;", *created(old=True)):
        started.client.execute(statement)
    return started


def created(old: bool) -> list[str]:
    return [each.strip() for each in statements("podtally", old).split(";\n") if each.strip()]


def sent(
    path: Path, client: ClickHouseClient, batches: list[Batch]
) -> tuple[HistoryWriter, Forwarder]:
    """A writer and a forwarder, at work on these batches."""
    writer = HistoryWriter(path, LIMITS, lambda each: blocks(each, NODE))
    forwarder = Forwarder(path, client, NODE, writer.confirm)
    writer.start()
    forwarder.start()
    writer.offer(batches)
    return writer, forwarder


def wait_for(client: ClickHouseClient, rows: int) -> None:
    """Wait until the table has as many rows; the test's timeout bounds it."""
    while counted(client) < rows:
        time.sleep(0.05)


def counted(client: ClickHouseClient) -> int:
    return int(client.select("SELECT count() AS n FROM podtally.flows")[0]["n"])


def local(path: Path, query: FlowQuery) -> FlowAnswer:
    reader = HistoryReader(path)
    try:
        return reader.answer(query, node=NODE)
    finally:
        reader.close()


def plain(answer: FlowAnswer) -> list[tuple[object, ...]]:
    return [
        (dict(r.labels), r.connections, r.bytes, r.packets, r.first, r.last, round(r.cost, 6))
        for r in answer.rows
    ]


def test_both_stores_answer_alike(server: ClickHouseServer, tmp_path: Path) -> None:
    batches = [batch(i, START + i, 23) for i in range(4)]
    batches.append(batch(4, START + DAY_MINUTES, 23))
    path = tmp_path / "history.db"
    writer, forwarder = sent(path, server.client, batches)
    wait_for(server.client, 5 * 23)
    forwarder.close()
    writer.close()
    for query in QUERIES:
        assert plain(clickhouse_query.answer(server.client, query)) == plain(local(path, query)), (
            query
        )


def test_over_tls_with_certificates_of_both_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = ClickHouseServer(tmp_path / "server", authority)
    server.start()
    try:
        server.wait_ready()
        for statement in created(old=True):
            server.client.execute(statement)
        batches = [batch(i, START + i, 23) for i in range(3)]
        writer, forwarder = sent(tmp_path / "history.db", server.client, batches)
        wait_for(server.client, 3 * 23)
        forwarder.close()
        writer.close()
        refused(server, ClickHouseTls(ca_file=str(authority.own.certificate)))  # no certificate
        stranger = Authority(tmp_path / "other", "other-ca")
        pair = stranger.issue("agent")
        own = (str(pair.certificate), str(pair.key))
        refused(server, ClickHouseTls(str(authority.own.certificate), *own))
        with pytest.raises(UncertainError, match="certificate verify failed"):
            client(server, ClickHouseTls(ca_file=str(stranger.own.certificate))).select("SELECT 1")
        with pytest.raises(ServerError, match="tls"):
            client(server, ClickHouseTls(ca_file="/nowhere")).select("SELECT 1")
        assert counted(server.client) == 3 * 23
    finally:
        server.kill()


def client(server: ClickHouseServer, tls: ClickHouseTls) -> ClickHouseClient:
    return ClickHouseClient(msgspec.structs.replace(server.settings, tls=tls))


def refused(server: ClickHouseServer, tls: ClickHouseTls) -> None:
    with pytest.raises(UncertainError):
        client(server, tls).select("SELECT 1")


def test_a_batch_of_two_days_makes_two_blocks() -> None:
    first, second = batch(0, START, 5), batch(0, START + DAY_MINUTES, 5)
    both = first._replace(
        rows=type(first.rows)(
            *(
                __import__("numpy").concatenate(pair)
                for pair in zip(first.rows, second.rows, strict=True)
            )
        )
    )
    assert [(block.part, block.rows) for block in blocks(both, NODE)] == [(0, 5), (1, 5)]


def test_each_row_once_while_the_server_is_killed(server: ClickHouseServer, tmp_path: Path) -> None:
    chance = random.Random(23)
    batches = [batch(i, START + i, 500) for i in range(60)]
    path = tmp_path / "history.db"
    writer, forwarder = sent(path, server.client, batches)
    for kill in range(5):
        wait_for(server.client, 8 * 500 * kill)
        time.sleep(chance.uniform(0, 0.2))
        server.kill()
        if kill % 2:  # the agent as well, with what it had not confirmed
            forwarder.close()
            writer.close()
            writer, forwarder = sent(path, server.client, batches)
        server.start()
        server.wait_ready()
    wait_for(server.client, 60 * 500)
    forwarder.close()
    writer.close()
    query = FlowQuery(by=("pod", "address"))
    assert plain(clickhouse_query.answer(server.client, query)) == plain(local(path, query))
    assert counted(server.client) == 60 * 500


def test_a_restart_asks_before_it_sends_again(server: ClickHouseServer, tmp_path: Path) -> None:
    """The agent is killed after the server took blocks, and before the store noted it."""
    batches = [batch(i, START + i, 7) for i in range(5)]
    for each in batches[:3]:
        for block in blocks(each, NODE):
            server.client.insert(BlockIdentity(NODE, each.stream, each.number), block)
    writer, forwarder = sent(tmp_path / "history.db", server.client, batches)
    wait_for(server.client, 5 * 7)
    while forwarder.state.blocks < 5:
        time.sleep(0.01)
    forwarder.close()
    writer.close()
    assert counted(server.client) == 5 * 7


def test_a_server_that_refuses_is_reported(server: ClickHouseServer, tmp_path: Path) -> None:
    server.client.execute("DROP TABLE podtally.flows")
    writer, forwarder = sent(tmp_path / "history.db", server.client, [batch(0, START, 7)])
    while not forwarder.state.errors:
        time.sleep(0.01)
    assert "podtally.flows" in forwarder.state.trouble
    for statement in created(old=True):
        server.client.execute(statement)
    wait_for(server.client, 7)  # nothing is lost meanwhile
    forwarder.close()
    writer.close()


def test_a_wrong_password_is_refused(server: ClickHouseServer) -> None:
    (server.root / "password").write_text("wrong\n")
    try:
        with pytest.raises(ServerError, match=r"(?i)password|authentication"):
            server.client.select("SELECT 1 AS one")
    finally:
        (server.root / "password").write_text("secret\n")


def test_the_current_engine_reads_schema_and_queries(tmp_path: Path) -> None:
    chdb_session = pytest.importorskip("chdb.session", reason="no chdb (PyPI: chdb)")
    session = chdb_session.Session(str(tmp_path / "chdb"))
    try:
        for statement in created(old=False):
            session.query(statement)
        for each in blocks(batch(0, START, 23), NODE):
            lines = tmp_path / "block.tsv.gz"
            lines.write_bytes(each.data)
            session.query(
                f"INSERT INTO podtally.flows FROM INFILE '{lines}' COMPRESSION 'gzip' FORMAT TabSeparated"
            )
        found = str(session.query("SELECT count() FROM podtally.flows", "TabSeparated"))
        assert found.strip() == "23"
        for query in QUERIES:
            text = clickhouse_query.statement(query, 0, (START + 99) * 60, "podtally")
            session.query(f"{text} FORMAT JSONEachRow")
    finally:
        session.close()


def test_an_invalid_filter_never_reaches_the_server() -> None:
    with pytest.raises(PodtallyError, match="invalid port"):
        clickhouse_query.statement(FlowQuery(filters={"port": ["1 OR 1"]}), 0, 1, "podtally")

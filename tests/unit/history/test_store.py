# SPDX-License-Identifier: Apache-2.0
"""The embedded store: each batch once, roll-ups with the same sums, limits in bytes, damage."""

import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podtally.history.flow_query import FlowQuery, FlowRow, columns_by
from podtally.history.reader import HistoryReader, answer_live
from podtally.history.retention import Retention, StoreLimits
from podtally.history.sqlite_schema import BASE_SECONDS, DAY, HOUR, MINUTE, TIERS
from podtally.history.store import Store
from podtally.ledger.recording.history_rows import MINUTE_NS, Batch, HistoryRows, RowLabels
from tests.unit.rows import words

DAY_MINUTES = 1440
START = BASE_SECONDS // 60 + 2000 * DAY_MINUTES + 7  # 7 minutes after a day's beginning
LABELS = [
    RowLabels(
        interface=f"veth{i}",
        account="flows",
        namespace="shop",
        pod=f"web-{i}",
        uid=f"uid-{i}",
        workload="web" if i % 2 else "db",
        workload_kind="Deployment",
        peer_kind="external",
        peer_workload="office",
        scope="internet",
        verdict="denied" if i == 3 else "allowed",
        policy="shop/deny" if i == 3 else "",
    )
    for i in range(5)
]


def batch(number: int, minute: int, count: int = 5, seed: int = 1, stream: str = "stream") -> Batch:
    """``count`` conversations of one minute, with random amounts."""
    rng = np.random.default_rng([seed, number])
    which = np.arange(count)
    addresses = [words(f"203.0.{i // 250 % 250}.{i % 250}") for i in range(count)]
    rows = HistoryRows(
        minute=np.full(count, minute, np.int64),
        label=(which % len(LABELS)).astype(np.int32),
        address=np.array(addresses, np.uint64).reshape(count, 2),
        port=np.full(count, 443, np.int32),
        protocol=np.full(count, 6, np.uint8),
        initiator=np.full(count, 1, np.uint8),
        connections=rng.integers(0, 9, count),
        bytes=rng.integers(0, 1 << 40, (count, 2)),
        packets=rng.integers(0, 1 << 20, (count, 2)),
        first_ns=np.full(count, minute * MINUTE_NS + 7 * 10**9),
        last_ns=np.full(count, minute * MINUTE_NS + 23 * 10**9),
    )
    return Batch(stream, number, LABELS, rows)


def sums(
    batches: Sequence[Batch], since: int = 0, until: int = 1 << 60
) -> Counter[tuple[str, str]]:
    """Bytes by workload and direction, of minutes in the window."""
    found: Counter[tuple[str, str]] = Counter()
    for each in batches:
        for i, minute in enumerate(each.rows.minute.tolist()):
            if since <= minute * 60 < until:
                workload = each.labels[each.rows.label[i]].workload
                for way, name in enumerate(("egress", "ingress")):
                    found[workload, name] += int(each.rows.bytes[i, way])
    return +found


def asked(path: Path, since: int = 0, until: int = 0) -> Counter[tuple[str, str]]:
    rows = answer(path, FlowQuery(since, until, by=("workload",)))
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        found[row.labels["workload"], "egress"] += row.bytes.egress
        found[row.labels["workload"], "ingress"] += row.bytes.ingress
    return +found


def answer(path: Path, query: FlowQuery, live: Sequence[Batch] = ()) -> list[FlowRow]:
    reader = HistoryReader(path)
    try:
        return reader.answer(query, live).rows
    finally:
        reader.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def write(store: Store, batches: Sequence[Batch]) -> None:
    for each in batches:
        assert store.write(each)
        store.roll_up(int(each.rows.minute[-1] + 1) * 60)


def test_each_batch_is_written_once(path: Path) -> None:
    batches = [batch(i, START + i) for i in range(7)]
    store = Store(path)
    write(store, batches[:4])
    assert not store.write(batches[3])
    store.close()
    again = Store(path)
    assert [again.write(each) for each in batches] == [False] * 4 + [True] * 3
    other = batch(0, START, stream="of another start")
    assert again.write(other)
    again.close()
    assert asked(path) == sums([*batches, other])


def test_remembered_are_the_numbers_of_the_last_batch(path: Path) -> None:
    store = Store(path)
    sizes = []
    for number in range(23):
        made = batch(number, START + number)
        labels = [each._replace(pod=f"pod-{number}") for each in made.labels]
        rows = made.rows._replace(port=np.full(len(made.rows.port), 1000 + number, np.int32))
        assert store.write(made._replace(labels=labels, rows=rows))
        sizes.append(store.remembered)
    store.close()
    assert sizes == [sizes[0]] * len(sizes)


def test_the_cache_of_pages_is_released_after_a_batch(path: Path) -> None:
    store, statements = Store(path), list[str]()
    store.connection.set_trace_callback(statements.append)
    assert store.write(batch(0, START))
    store.close()
    assert "shrink_memory" in statements[-1]


def test_a_failed_batch_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(path)
    with monkeypatch.context() as patched:
        patched.setattr(
            "podtally.history.incoming.tier_rows", lambda *_: iter([("no number",) * 7])
        )
        with pytest.raises(sqlite3.Error):
            store.write(batch(0, START))
    assert store.connection.execute("SELECT count(*) FROM conversation").fetchone() == (0,)
    assert store.write(batch(0, START))
    store.close()
    assert asked(path) == sums([batch(0, START)])


def test_any_window_has_the_sums_of_its_minutes(path: Path) -> None:
    chance = random.Random(23)
    minutes = sorted(chance.sample(range(START, START + 3 * DAY_MINUTES), 200))
    batches = [batch(i, minute) for i, minute in enumerate(minutes)]
    batches.append(batch(200, START + 60))  # late, of an hour and a day that are rolled up
    store = Store(path)
    write(store, batches)
    counts = [
        store.connection.execute(f"SELECT count(*) FROM {t.table}").fetchone()[0] for t in TIERS
    ]
    assert counts[0] > counts[1] > counts[2] > 0
    store.close()
    for _ in range(100):
        since, until = sorted(chance.sample(range(START - 99, START + 3 * DAY_MINUTES + 99), 2))
        assert asked(path, since * 60, until * 60) == sums(batches, since * 60, until * 60)


def test_first_and_last_are_those_of_the_packets(path: Path) -> None:
    store = Store(path)
    write(store, [batch(i, START + i * 50) for i in range(100)])
    store.close()
    [row] = answer(path, FlowQuery(by=()))
    assert row.first == START * 60 + 7
    assert row.last == (START + 99 * 50) * 60 + 23


def test_filters_groups_and_orders(path: Path) -> None:
    store = Store(path)
    write(store, [batch(0, START, 23)])
    store.close()

    def found(**changes: Any) -> list[FlowRow]:
        return answer(path, FlowQuery()._replace(**changes))

    assert len(found()) == 23
    assert len(found(filters={"verdict": ["denied"]})) == 4
    assert len(found(filters={"pod": ["web-3", "web-4"]})) == 8
    assert len(found(filters={"pod": ["web-*"], "port": ["443"], "protocol": ["tcp"]})) == 23
    assert len(found(filters={"address": ["203.0.0.0/30"]})) == 4
    assert found(filters={"interface": ["veth[0-9]"]}) == []  # brackets match themselves
    assert found(filters={"workload": ["it's"]}) == []
    assert len(found(source="shop/web", destination="internet")) == 9
    assert len(found(source="web-3", destination="office")) == 4
    assert found(source="internet") == found(destination="shop/web") == []
    assert [row.labels["address"] for row in found(either="203.0.0.7")] == ["203.0.0.7"]
    assert len(found(either="shop/*")) == 23
    by_policy = found(by=columns_by(["policy", "workload"]), order="connections")
    assert {row.labels["policy"] for row in by_policy} == {"", "shop/deny"}
    connections = [row.connections for row in by_policy]
    assert connections == sorted(connections, reverse=True)
    assert len(found(top=3)) == 3
    [row] = found(by=(), prices=({"internet": 0.09}, {"node": 5.0}))
    assert row.cost == pytest.approx(row.bytes.egress * 0.09 / 1e9)


def test_the_node_is_that_of_the_store(path: Path) -> None:
    store = Store(path)
    write(store, [batch(0, START, 23)])
    store.close()
    live = [batch(1, START + 1, 23)._replace(number=-1)]

    def found(node: str, **changes: Any) -> list[FlowRow]:
        reader = HistoryReader(path)
        try:
            return reader.answer(FlowQuery()._replace(**changes), live, node).rows
        finally:
            reader.close()

    rows = found("n1", by=columns_by(["workload", "node", "verdict"]))
    assert {tuple(row.labels) for row in rows} == {("namespace", "workload", "node", "verdict")}
    assert {row.labels["node"] for row in rows} == {"n1"}
    assert sum(row.bytes.sum for row in rows) == sum(
        row.bytes.sum for row in found("n1", by=(), filters={"node": ["other", "n*"]})
    )
    assert found("n1", filters={"node": ["n2", "[n]1"]}) == []
    assert answer_live(FlowQuery(by=("node",)), live, "n1").rows[0].labels == {"node": "n1"}
    assert answer_live(FlowQuery(filters={"node": ["n2"]}), live, "n1").rows == []


def test_what_is_new(path: Path) -> None:
    store = Store(path)
    write(store, [batch(0, START, 5), batch(1, START + 90, 7)])
    store.close()
    new = answer(path, FlowQuery(since=(START + 60) * 60, by=("address",), only_new=True))
    assert {row.labels["address"] for row in new} == {"203.0.0.5", "203.0.0.6"}


def test_what_is_not_written_yet_is_in_the_answer(path: Path) -> None:
    batches = [batch(i, START + i) for i in range(4)]
    store = Store(path)
    write(store, batches[:2])
    store.close()
    now = batches[3]._replace(number=-1)  # the present minute
    [row] = answer(path, FlowQuery(by=()), [*batches[:3], now])
    assert row.bytes.sum == sum(sums(batches).values())


@pytest.mark.slow
def test_the_limit_holds_and_the_finest_go_first(path: Path) -> None:
    limit = 4 << 20
    store = Store(path)
    retention = Retention(store, StoreLimits(limit, 0))
    batches = [batch(i, START + 5 * i, 300) for i in range(1000)]
    removed = 0
    for each in batches:
        store.write(each)
        removed += retention.enforce()
        store.roll_up(int(each.rows.minute[-1] + 1) * 60)
        assert store.size() <= limit * 1.05
    assert removed
    assert store.size() > limit * 0.8
    assert store.kept(MINUTE) * 60 > store.kept(HOUR) * 3600
    assert store.kept(DAY) * 86400 <= START * 60 - BASE_SECONDS
    store.close()
    assert asked(path) == sums(batches)  # the days have all of them


def test_days_go_last_and_names_with_them(path: Path) -> None:
    store = Store(path)
    write(store, [batch(i, START + i * DAY_MINUTES, 9) for i in range(4)])
    for tier in TIERS:
        store.remove(tier, (START - BASE_SECONDS // 60 + 2 * DAY_MINUTES) * 60 // tier.seconds)
    assert store.connection.execute("SELECT count(*) FROM conversation").fetchone() == (9,)
    last_two = [batch(i, START + i * DAY_MINUTES, 9) for i in (2, 3)]
    write(store, [batch(4, START + 4 * DAY_MINUTES, 9)])
    store.close()
    assert asked(path) == sums([*last_two, batch(4, START + 4 * DAY_MINUTES, 9)])

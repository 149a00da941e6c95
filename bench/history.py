# SPDX-License-Identifier: Apache-2.0
"""The history: bytes and CPU of a row, memory, late epochs, queries, limits, damaged files."""

import argparse
import random
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench import history_server
from bench.history_rows import START, batches
from bench.report import Report, progress, show
from podtally.history.errors import StoreError
from podtally.history.flow_query import FlowQuery, FlowRow, columns_by
from podtally.history.reader import HistoryReader
from podtally.history.retention import Retention, StoreLimits
from podtally.history.store import Store
from podtally.history.writer import HistoryWriter
from podtally.ledger.recording.history_rows import Batch

EXAMPLE = "scripts/bench history --rows 10000000 --damage 10000"
COLUMNS = ("what", "of", "value", "target", "ok")
PER_MINUTE = 1000
WEEK_MINUTES = 7 * 1440
TICK_SECONDS = 0.01
PEERS = columns_by(["peer", "address"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000, help="of the embedded store (default: %(default)s)")
    add("--damage", type=int, default=300, help="damaged files (default: %(default)s)")
    add("--server-rows", type=int, default=0, help="of ClickHouse; 0: not measured (default)")


def main(arguments: argparse.Namespace) -> int:
    report = Report(COLUMNS, [])
    with tempfile.TemporaryDirectory(prefix="podtally-bench-") as directory:
        root = Path(directory)
        _write(root / "history.db", arguments.rows, report)
        _query(root / "history.db", arguments.rows, report)
        _lateness(root / "late.db", report)
        _limit(root / "limit.db", report)
        _damage(root, arguments.damage, report)
        if arguments.server_rows:
            history_server.measure(root, arguments.server_rows, report)
    show(report, arguments.output)
    return 0 if report.met else 1


def _add(report: Report, what: str, of: int, value: float, target: float) -> None:
    report.rows.append((what, of, round(value, 3), target, value <= target))


def _write(path: Path, rows: int, report: Report) -> None:
    """Minute after minute, a week with 10,000,000 rows; making the batches is not measured."""
    progress(f"writing {rows:,} rows")
    before = _resident()
    store = Store(path)
    seconds, slowest, peak = 0.0, 0.0, 0.0
    for batch in batches(rows, PER_MINUTE):
        begun = time.process_time()
        store.write(batch)
        store.roll_up(int(batch.rows.minute[0] + 1) * 60)
        taken = time.process_time() - begun
        seconds, slowest = seconds + taken, max(slowest, taken)
        if batch.number % 100 == 0:
            peak = max(peak, _resident() - before)
    store.truncate_log()
    count = sum(
        int(store.connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
        for name in ("minute", "hour", "day")
    )
    _add(report, "bytes on disk per minute's row", rows, store.size() / rows, 32)
    _add(report, "bytes on disk per row of all tables", count, store.size() / count, 32)
    _add(report, "CPU per row, us", rows, seconds / rows * 1e6, 6)
    _add(report, "CPU of the slowest batch with its roll-ups, s", PER_MINUTE, slowest, 10)
    _add(report, "more memory while writing, MiB", rows, peak / (1 << 20), 10)
    store.close()


def _query(path: Path, rows: int, report: Report) -> None:
    progress("querying")
    until = (START + min(WEEK_MINUTES, rows // PER_MINUTE)) * 60
    query = FlowQuery(
        since=START * 60 + 1800, until=until - 1800, by=PEERS,
        filters={"namespace": ["team-1"], "workload": ["web-1"]},
    )  # fmt: skip
    taken, cpu = [], []
    for _ in range(5):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        found = _answer(path, query)
        cpu.append(time.process_time() - cpu_begun)
        taken.append(time.perf_counter() - begun)
    assert found
    _add(report, "peers of a workload in a week, s of CPU", rows, statistics.median(cpu), 0.3)
    _add(report, "peers of a workload in a week, s", rows, statistics.median(taken), 0.3)


def _lateness(path: Path, report: Report) -> None:
    """How late a thread wakes that does nothing else, while the writer writes and removes."""
    progress("waking while the writer works")
    writer = HistoryWriter(path, StoreLimits(16 << 20, 0))
    offered = list(batches(600_000, 1000, 7))
    late: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            due = time.perf_counter() + TICK_SECONDS
            time.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - due)

    thread = threading.Thread(target=tick)
    idle = threading.Event()
    thread.start()
    idle.wait(3)
    rest, late = late, []
    writer.start()
    writer.offer(offered)
    while writer.state.taken is None or writer.state.taken.number < len(offered) - 1:
        time.sleep(0.05)
    stop.set()
    thread.join()
    writer.close()
    quiet = statistics.quantiles(rest, n=1000)[-1]
    busy = statistics.quantiles(late, n=1000)[-1]
    _add(report, "99.9 % of wake-ups at rest, ms late", len(rest), quiet * 1e3, 50)
    _add(report, "99.9 % of wake-ups while writing, ms late", len(late), busy * 1e3, 50)
    _add(report, "the latest wake-up while writing, ms", len(late), max(late) * 1e3, 50)


def _limit(path: Path, report: Report) -> None:
    progress("filling a small store")
    limit, largest = 16 << 20, 0
    store = Store(path)
    retention = Retention(store, StoreLimits(limit, 0))
    for batch in batches(1_500_000, 3000, 7):
        store.write(batch)
        store.roll_up(int(batch.rows.minute[0] + 1) * 60)
        retention.enforce()
        largest = max(largest, store.size())
    _add(report, "largest size of the limit", limit, largest / limit, 1.05)
    store.close()


def _damage(root: Path, count: int, report: Report) -> None:
    """Random bytes of a file are changed: an answer is right, or it is an error."""
    progress(f"damaging {count:,} files")
    chance = random.Random(23)
    good, bad = root / "good.db", root / "bad.db"
    store = Store(good)
    for batch in batches(20_000, 2000, 37):
        store.write(batch)
        store.roll_up(int(batch.rows.minute[0] + 1) * 60)
    store.truncate_log()
    store.close()
    queries = [
        FlowQuery(by=("namespace", "workload", "verdict")),
        FlowQuery(by=("address",), filters={"workload": ["web-1"]}),
        FlowQuery(by=(), accounts=(), since=(START + 40) * 60),
    ]
    truth = [_sorted(_answer(good, query)) for query in queries]
    wrong = died = refused = 0
    for _ in range(count):
        shutil.copyfile(good, bad)
        _change(bad, chance)
        for query, right in zip(queries, truth, strict=True):
            try:
                wrong += _sorted(_answer(bad, query)) != right
            except (sqlite3.Error, StoreError):
                refused += 1
            except Exception as error:  # noqa: BLE001: what the agent would not expect
                died += 1
                progress(f"{type(error).__name__}: {error}")
        try:
            damaged = Store(bad)
            extra: Sequence[Batch] = list(batches(2000, 2000))
            damaged.write(extra[0]._replace(stream="after"))
            damaged.close()
        except (sqlite3.Error, StoreError):
            refused += 1
        for suffix in ("-wal", "-shm"):
            bad.with_name(bad.name + suffix).unlink(missing_ok=True)
    _add(report, "wrong answers from damaged files", count, wrong, 0)
    _add(report, "unexpected errors from damaged files", count, died, 0)
    report.rows.append(("refusals of damaged files", count, refused, 4 * count, True))


def _change(path: Path, chance: random.Random) -> None:
    """Change a byte, a run of them, or the file's end."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        kind = chance.randrange(4)
        if kind == 0:
            file.truncate(chance.randrange(size))
            return
        file.seek(chance.randrange(size))
        length = (1, 1, 1, chance.randrange(1, 4096))[kind]
        file.write(chance.randbytes(length))


def _answer(path: Path, query: FlowQuery) -> list[FlowRow]:
    reader = HistoryReader(path)
    try:
        return reader.answer(query).rows
    finally:
        reader.close()


def _sorted(rows: list[FlowRow]) -> list[FlowRow]:
    return sorted(rows, key=lambda row: tuple(row.labels.values()))


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024.0
    raise AssertionError("no RssAnon")

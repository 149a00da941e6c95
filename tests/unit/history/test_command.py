# SPDX-License-Identifier: Apache-2.0
"""``podtally flows`` and ``podtally history`` on a file: what they print, and what they refuse."""

import csv
import io
import json
from pathlib import Path

import pytest

from podtally.cli import main
from podtally.commands.shared.tables import Style
from podtally.commands.stored.flow_output import table_lines
from podtally.history.flow_query import columns_by
from podtally.history.store import Store
from tests.unit.history.test_store import START, batch, sums, write

WINDOW = ("--since", "2024-01-01")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "history.db"
    store = Store(found)
    write(store, [batch(0, START, 7), batch(1, START + 1, 7)])
    store.close()
    return found


def flows(path: Path, *flags: str) -> int:
    return main(["flows", "--store", str(path), *WINDOW, *flags])


def test_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flows(path, "--by", "workload,verdict") == 0
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split() == [
        "WORKLOAD",
        "VERDICT",
        "CONNECTIONS",
        "SENT",
        "RECEIVED",
        "FIRST",
        "LAST",
    ]
    assert {row.split()[0] for row in rows[:3]} == {"shop/web", "shop/db"}
    assert "\x1b" not in rows[0]


def test_a_domain_is_headed_by_the_word_that_asks_for_it() -> None:
    amount = {"egress": 1, "ingress": 2}
    sums = {"connections": 1, "bytes": amount, "packets": amount, "first": "a", "last": "b"}
    labels = dict.fromkeys(columns_by(["workload", "domain", "port"]), "x")
    heads, row = table_lines([{**labels, **sums}], False, Style(120, False))
    assert heads.split()[:3] == ["WORKLOAD", "DOMAIN", "PORT"]
    assert row.split()[:3] == ["x/x", "x", "x"]


def test_json_and_csv_have_the_same_rows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flows(path, "--by", "workload", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = sums([batch(0, START, 7), batch(1, START + 1, 7)])
    assert {row["workload"]: row["bytes"]["egress"] for row in rows} == {
        workload: amount for (workload, way), amount in expected.items() if way == "egress"
    }
    assert flows(path, "--by", "workload", "-o", "csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["bytes_egress"]) for row in table] == [row["bytes"]["egress"] for row in rows]


def test_nothing_found_is_a_finding(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flows(path, "--pod", "no-such") == 1
    assert "nothing from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--by", "wrokload"), "did you mean"),
        (("--by", "peer", "--connections"), "exclude each other"),
        (("--at", "14:00"), "--at excludes"),
        (("--until", "2023-12-31"), "not after"),
        (("--port", "http"), "invalid port 'http'"),
        (("--cost",), "no prices are configured"),
        (("--store", "clickhouse"), "no ClickHouse server is configured"),
        (("--store", "/nowhere/history.db"), "there is no history"),
    ],
)
def test_usage_errors(
    path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert flows(path, *flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_exports_have_every_row(path: Path, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out"
    if format_ == "parquet":
        pyarrow = pytest.importorskip("pyarrow.parquet", reason="no pyarrow (PyPI: pyarrow)")
    flags = ("--store", str(path), "--format", format_, "--file", str(out))
    assert main(["history", "export", *flags]) == 0
    if format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(out.read_text())))
    elif format_ == "json":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = pyarrow.read_table(out).to_pylist()
    assert len(rows) == 14
    expected = sums([batch(0, START, 7), batch(1, START + 1, 7)])
    assert sum(int(row["bytes_egress"]) + int(row["bytes_ingress"]) for row in rows) == sum(
        expected.values()
    )
    assert {row["protocol"] for row in rows} == {"tcp"}


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "schema", "clickhouse", "--days", "7", "--database", "net"]) == 0
    text = capsys.readouterr().out
    assert "CREATE TABLE IF NOT EXISTS net.flows" in text
    assert "INTERVAL 7 DAY" in text
    assert main(["history", "schema", "clickhouse", "--server", "18.16"]) == 0
    assert "CODEC" not in capsys.readouterr().out

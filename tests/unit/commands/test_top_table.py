# SPDX-License-Identifier: Apache-2.0
"""``podtally top``: lines for a terminal, and JSON for machines."""

import io
import re

import msgspec
import pytest

from podtally.commands.shared.tables import Style
from podtally.commands.traffic.conversation_rows import rows
from podtally.commands.traffic.conversations import TrafficTotal
from podtally.commands.traffic.top_table import Top, TopPage, as_json, live
from podtally.export.exposition import label_text
from tests.unit.commands.top_support import (
    BUILD,
    EVERYTHING,
    LONG,
    METRICS,
    STRAY,
    WEB,
    books,
    printed,
    seen,
    talked,
)

PLAIN = Style(120, colour=False)


def drawn(metrics: str, style: Style = PLAIN, trouble: str = "") -> list[str]:
    now = seen(metrics, 2.0)
    page = TopPage(now, rows(now, seen(BUILD), EVERYTHING), None, "podtally top", trouble)
    return live(page, style)


def test_the_table() -> None:
    assert drawn(METRICS + books()) == [
        "podtally top",
        "WORKLOAD        PEER             PORT      SCOPE     VERDICT     CONNS    SENT  RECEIVED      RATE",
        "shop/web    ->  data/db          3306/tcp  node      allowed        23  1.0 kB    4.0 kB  2.5 kB/s",
        "shop/web    <-  external:office  80/tcp    private   undeclared      3   400 B     300 B   350 B/s",
        "shop/stray  ->  internet         4444/tcp  internet  ! denied        7   460 B       0 B   230 B/s",
        "",
        "denied 7 (460 B), undeclared 3 (700 B), unknown 0, of 33 connections; the books close: 6,246 bytes; why: `podtally",
        "explain FROM TO PORT`, or the event log",
    ]


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    lines = drawn(METRICS + LONG + books(), Style(columns, colour=False))
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_narrow_terminal_sees_verdict_and_rate(columns: int) -> None:
    lines = drawn(METRICS + LONG + books(), Style(columns, colour=False))
    line = next(line for line in lines if "length" in line)
    assert re.search(r"me-length  ->  internet +4444/tcp  ! denied .*230 B/s$", line)


def test_no_traffic_yet_is_reported() -> None:
    assert drawn(BUILD)[1] == "no traffic seen yet"


def test_a_low_terminal_sees_the_first_lines_and_how_many_more() -> None:
    many = "".join(talked(WEB._replace(port=str(port)), 1, port, 0) for port in range(1, 101))
    lines = drawn(BUILD + many + books(), Style(100, colour=False, rows=15))
    assert len(lines) == 15
    assert lines[2].split()[3] == "100/tcp"
    assert "and 90 more" in lines
    assert lines[-1].startswith("denied 0")


def test_what_is_denied_stands_out_in_colour() -> None:
    text = "\n".join(drawn(METRICS + books(), Style(120, colour=True)))
    assert "\x1b[31;1m! denied" in text
    assert "\x1b[33mundeclared" in text
    assert "\x1b[31;1mdenied 7" in text
    green = "\n".join(drawn(BUILD + talked(WEB, 23, 1, 1) + books(), Style(120, colour=True)))
    assert "\x1b[32mdenied 0" in green


def test_an_old_page_says_why_it_is_old() -> None:
    lines = drawn(METRICS + books(), trouble="no podtally answers on 127.0.0.1:1: \x1b[2Jgone")
    assert lines[2].startswith("shop/web")
    assert lines[-1] == "no podtally answers on 127.0.0.1:1: ?[2Jgone"


EVIL = 'a\x1b[2J\x07\n\r\x85\u2028\u202e"} 9\\'


def test_names_cannot_command_the_terminal_nor_break_a_line() -> None:
    metrics = METRICS + talked(
        STRAY._replace(workload=EVIL, peer_workload=EVIL, port=EVIL), 3, 99, 1
    )
    metrics += books("23", "veth1").replace("veth1", label_text(["x"], [EVIL])[3:-1])
    for text in (printed(metrics), "\n".join(drawn(metrics, Style(200, colour=False)))):
        assert {c for c in text if not c.isprintable()} == {"\n"}
        assert "\u202e" not in text
        assert re.search(r'shop/a\?\[2J\?{6}"}\?9\\ +-> +external:a\?', text)
    (row,) = (
        row for row in rows(seen(metrics), None, EVERYTHING) if row.conversation.workload == EVIL
    )
    assert row.counts == (99, 1, 3, 0, 0)


# -- for machines ---------------------------------------------------------------------------------


def test_json_has_every_counter_as_it_is() -> None:
    now, out = seen(METRICS + LONG + books("23")), io.StringIO()
    as_json(TopPage(now, rows(now, None, EVERYTHING), 2), out)
    result = msgspec.json.decode(out.getvalue(), type=Top)
    assert [each.workload for each in result.conversations] == ["web", "web"]
    first = msgspec.to_builtins(result.conversations[0])
    assert first == WEB._asdict() | {
        "egress_connections": 23, "ingress_connections": 0, "egress_bytes": 1000, "ingress_bytes": 4000,
        "failed_connections": 0,
    }  # fmt: skip
    assert result.conversations[1].direction == "ingress"
    assert result.conversations[1].ingress_connections == 3
    assert result.totals["denied"] == TrafficTotal(14, 920)
    assert msgspec.to_builtins(result.books) == {
        "bytes": 6246,
        "gaps": [{"interface": "veth1", "direction": "egress", "bytes": 23}],
    }

# SPDX-License-Identifier: Apache-2.0
"""The demo's view: from the text of /metrics to the lines on the screen."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from podtally.commands.shared.tables import Style, human
from podtally.commands.traffic.text_format import Sample, parse
from podtally.demo.events import EventTail
from podtally.demo.snapshot import PodConversation, PodRow, Snapshot, faults, make_snapshot
from podtally.demo.topology import (
    FRONTEND,
    STRAY,
)
from podtally.demo.view import render, to_json
from podtally.export.event_log import EventRecord

URL = "http://127.0.0.1:9775/metrics"
PODS = (FRONTEND, STRAY)
BUILD = 'podtally_build_info{version="1"} 1.0\n'
PLAIN = Style(120, colour=False)
LABELS = 'namespace="shop",workload="{}",workload_kind="Deployment",direction="{}",peer_kind="{}",peer_namespace="{}",peer_workload="{}",scope="{}",protocol="tcp",port="{}",verdict="{}"'


def flow(name: str, *labels: str, value: int) -> str:
    return f"podtally_{name}{{{LABELS.format(*labels)}}} {value}\n"


USER = ("pod", "shop", "user", "node", "80")
BACKEND_ASKED = ("pod", "shop", "backend", "node", "3000")
NAMELESS = ("external", "", "", "private", "4444")
DENIED = (
    'podtally_policy_denied_total{namespace="shop",workload="stray",direction="egress",'
    'peer_kind="external",peer_namespace="",peer_workload="",protocol="tcp",port="4444",'
    'policy="shop/default-deny"} 23\n'
)

METRICS = (
    "# HELP podtally_pod_bytes_total Bytes of a pod.\n"
    "# TYPE podtally_pod_bytes_total counter\n"
    'podtally_pod_bytes_total{namespace="shop",pod="frontend-7d",direction="ingress"} 1.2e+06\n'
    'podtally_pod_bytes_total{namespace="shop",pod="frontend-7d",direction="egress"} 34567\n'
    'podtally_pod_packets_total{namespace="shop",pod="frontend-7d",direction="ingress"} 1200\n'
    'podtally_pod_packets_total{namespace="shop",pod="frontend-7d",direction="egress"} 34\n'
    'podtally_pod_bytes_total{namespace="shop",pod="stray-x2",direction="ingress"} 230\n'
    'podtally_pod_bytes_total{namespace="shop",pod="stray-x2",direction="egress"} 460\n'
    'podtally_pod_packets_total{namespace="shop",pod="stray-x2",direction="egress"} 23\n'
    + flow("flow_bytes_total", "frontend", "ingress", *USER, "allowed", value=1000)
    + flow("flow_bytes_total", "frontend", "egress", *USER, "allowed", value=4000)
    + flow("flow_bytes_total", "frontend", "egress", *USER, "unknown", value=500)
    + flow("flow_bytes_total", "frontend", "egress", *USER, "denied", value=0)
    + flow("connections_total", "frontend", "ingress", *USER, "allowed", value=23)
    + flow("flow_bytes_total", "frontend", "egress", *BACKEND_ASKED, "allowed", value=300)
    + flow("flow_bytes_total", "frontend", "ingress", *BACKEND_ASKED, "allowed", value=400)
    + flow("connections_total", "frontend", "egress", *BACKEND_ASKED, "allowed", value=23)
    + flow("flow_bytes_total", "stray", "egress", *NAMELESS, "denied", value=460)
    + flow("connections_total", "stray", "egress", *NAMELESS, "denied", value=23)
    + DENIED
    + "".join(
        f'podtally_books_bytes_total{{interface="ptd-{pod}",direction="{way}",account="{account}"}} {value}\n'
        for pod in ("frontend", "stray")
        for way in ("ingress", "egress")
        for account, value in (("flows", 1234567), ("other", 84), ("overflow", 0))
    )
    + "".join(
        f'podtally_books_gap_bytes{{interface="ptd-{pod}",direction="{way}"}} 0.0\n'
        for pod in ("frontend", "stray")
        for way in ("ingress", "egress")
    )
)  # fmt: skip

EVENT = (
    b'{"time":"2024-02-29T12:00:00.023Z","event":"denied","direction":"egress","endpoint":{"namespace":'
    b'"shop","pod":"stray-x2","workload":"stray","workload_kind":"Deployment"},"peer":{"kind":'
    b'"external","namespace":"","workload":"","name":"","address":"198.18.7.7","scope":"private"},'
    b'"protocol":"tcp","port":4444,"policy":"shop/default-deny","reason":"denied by default: '
    b'shop/default-deny selects it and no egress rule allows this","connections":23,"new_connections":2,'
    b'"bytes":{"egress":4600,"ingress":0},"first":"2024-02-29T11:58:59.023Z",'
    b'"last":"2024-02-29T12:00:00.000Z"}\n'
)  # as the agent writes it
STRAYS = msgspec.json.decode(EVENT, type=EventRecord)

GOLDEN = """\
user -> frontend :80 -> backend :3000 -> database :3306; payments; a stray pod
10 s of traffic; all metrics: http://127.0.0.1:9775/metrics

POD          RECEIVED     SENT  PACKETS  CONVERSATION      VERDICT    BYTES     RATE
frontend-7d    1.2 MB  34.6 kB    1,234  :80 <- user       unknown   5.5 kB  550 B/s
                                         -> backend :3000  allowed    700 B   70 B/s
stray-x2        230 B    460 B       23  -> private :4444  ! denied   460 B   46 B/s

EVENTS (connections that no policy allows; podtally blocks nothing)
12:00:00Z  stray-x2 -> private 198.18.7.7:4444  denied  23 connections
    denied by default: shop/default-deny selects it and no egress rule allows this

BOOKS (BYTES)               FLOWS  OTHER  OVERFLOW  GAP
ptd-frontend   ingress  1,234,567     84         0    0
ptd-frontend   egress   1,234,567     84         0    0
ptd-stray      ingress  1,234,567     84         0    0
ptd-stray      egress   1,234,567     84         0    0

the books close: 4,938,604 bytes on the interfaces, all accounted for"""


def nothing_yet() -> Snapshot:
    return make_snapshot(BUILD, (), PODS, 0.0)


def after_ten_seconds(
    metrics: str = METRICS, events: tuple[EventRecord, ...] = (STRAYS,)
) -> Snapshot:
    return make_snapshot(BUILD + metrics, events, PODS, 10.0)


def drawn(now: Snapshot, style: Style = PLAIN) -> list[str]:
    return render(now, nothing_yet(), URL, style)


def test_the_table() -> None:
    assert "\n".join(drawn(after_ten_seconds())) == GOLDEN


def test_a_narrow_terminal_sees_the_conversations_and_no_line_too_long() -> None:
    lines = drawn(after_ten_seconds(), Style(80, colour=False))
    row = re.sub(" +", " ", lines[4])
    assert row == "frontend-7d :80 <- user unknown 5.5 kB 550 B/s"
    assert max(map(len, lines)) <= 80
    lines = drawn(after_ten_seconds(), Style(40, colour=False))
    assert max(map(len, lines)) <= 40
    assert "no egress rule allows this" in " ".join(map(str.strip, lines))


@pytest.mark.parametrize("columns", [60, 70, 79])
def test_a_narrow_terminal_loses_no_word_and_no_figure(columns: int) -> None:
    def words(lines: list[str]) -> list[str]:
        return " ".join(lines).split()

    lines = drawn(after_ten_seconds(), Style(columns, colour=False))
    assert max(map(len, lines)) <= columns
    wide = drawn(after_ten_seconds(), PLAIN._replace(columns=99))
    if columns < 76:
        wide = [re.sub(r"RATE$|[\d.]+ k?B/s$", "", line) for line in wide]
    assert [word for word in words(wide) if word not in words(lines)] == []
    assert "RATE" in words(lines) or columns < 76
    assert " ".join(words(lines)).endswith(" interfaces, all accounted for")


def test_a_low_terminal_omits_the_books() -> None:
    whole = len(GOLDEN.splitlines())
    assert len(drawn(after_ten_seconds(), Style(120, False, rows=whole))) == whole
    lines = drawn(after_ten_seconds(), Style(120, False, rows=whole - 1))
    assert not any("OVERFLOW" in line for line in lines)
    assert lines[-1] == GOLDEN.splitlines()[-1]


def test_denials_are_coloured() -> None:
    text = "\n".join(drawn(after_ten_seconds(), Style(120, colour=True)))
    assert "\x1b[31;1m-> private :4444" in text
    assert "\x1b[31;1m! denied" in text
    assert "\x1b[33munknown" in text
    assert "\x1b[31;1m12:00:00Z  stray-x2" in text
    assert "-> backend :3000  allowed " in text  # quietly


def test_inbound_and_outbound_conversations() -> None:
    frontend, stray = after_ten_seconds().pods
    assert frontend.inbound == (PodConversation("user", "tcp", "80", 5500, False, "unknown"),)
    assert frontend.outbound == (PodConversation("backend", "tcp", "3000", 700, False, "allowed"),)
    assert stray.outbound == (PodConversation("private", "tcp", "4444", 460, True, "denied"),)
    assert (frontend.denied, stray.denied) == (0, 23)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["allowed", "undeclared"], "undeclared"),
        (["undeclared", "unknown", "allowed"], "unknown"),
        (["denied", "unknown"], "denied"),
        (["allowed", "other"], "unknown"),
    ],
)
def test_of_several_verdicts_the_worst_is_shown(verdicts: list[str], worst: str) -> None:
    more = "".join(
        flow("flow_bytes_total", "frontend", "egress", *BACKEND_ASKED, verdict, value=1)
        for verdict in verdicts
    )
    (use,) = after_ten_seconds(METRICS + more).pods[0].outbound
    assert (use.verdict, use.bytes) == (worst, 700 + len(verdicts))


def test_the_last_events_are_shown_in_the_order_in_which_they_began() -> None:
    def one(pod: str, seconds: int, connections: int) -> EventRecord:
        endpoint = msgspec.structs.replace(STRAYS.endpoint, pod=pod)
        time = f"2024-02-29T12:00:{seconds:02}.023Z"
        return msgspec.structs.replace(
            STRAYS, endpoint=endpoint, time=time, connections=connections
        )

    denied = (one("a", 9, 1), one("b", 1, 1), one("c", 3, 2), one("d", 4, 2_300))
    events = (msgspec.structs.replace(one("e", 10, 1), event="undeclared"), *denied)
    lines = drawn(after_ten_seconds(events=events))
    shown = [line for line in lines if "Z  " in line]
    assert [line.split()[1] for line in shown] == ["a", "c", "d"]
    assert shown[0].endswith("denied  1 connection")
    assert shown[2].endswith("denied  2,300 connections")
    assert "and 2 more" in lines
    assert "none" in drawn(after_ten_seconds(events=()))


def test_what_is_not_enforced_stands_with_its_denial() -> None:
    passed = msgspec.structs.replace(
        STRAYS, event="not_enforced", reason="the handshake was completed", connections=7
    )
    other = msgspec.structs.replace(passed, port=5555)
    lines = drawn(after_ten_seconds(events=(STRAYS, passed, other)))
    shown = [line for line in lines if "Z  " in line]
    assert [line.split("  ")[2] for line in shown] == ["denied", "not_enforced"]
    assert ":5555  not_enforced" in shown[1]
    assert sum("not enforced (7 of them" in line for line in lines) == 1
    assert not [line for line in lines if line.startswith("and ")]


def test_a_peer_that_only_dns_names_goes_by_its_domain() -> None:
    domain = 'peer_domain="exfil.example.net"'
    named = METRICS.replace('scope="private",', f'scope="private",{domain},')
    peer = msgspec.structs.replace(STRAYS.peer, domain="exfil.example.net", domain_source="dns")
    event = msgspec.structs.replace(STRAYS, peer=peer)
    now = after_ten_seconds(named, (event,))
    (use,) = now.pods[1].outbound
    assert (use.peer, use.outside) == ("exfil.example.net", True)
    lines = drawn(now)
    assert any("-> exfil.example.net :4444  ! denied" in line for line in lines)
    assert any("-> exfil.example.net 198.18.7.7:4444  denied" in line for line in lines)


def test_an_event_of_what_came_in_and_one_without_a_port() -> None:
    known = msgspec.structs.replace(STRAYS.peer, workload="office")
    came = msgspec.structs.replace(STRAYS, direction="ingress", peer=known, event="undeclared")
    ping = msgspec.structs.replace(STRAYS, protocol="icmp", port=0)
    lines = drawn(after_ten_seconds(events=(came, ping)))
    assert any("  stray-x2 :4444 <- office 198.18.7.7  undeclared  " in line for line in lines)
    assert any("  stray-x2 -> private 198.18.7.7 (icmp)  denied  " in line for line in lines)


def test_the_event_log_is_followed_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.latest() == ()
    path.write_bytes(EVENT + EVENT[:100])
    assert tail.latest() == (STRAYS,)
    again = EVENT.replace(b'"connections":23', b'"connections":29')
    path.write_bytes(EVENT + again + EVENT.replace(b"stray-x2", b"stray-x3"))
    first, second = tail.latest()
    assert (first.connections, first.endpoint.pod) == (29, "stray-x2")
    assert (second.connections, second.endpoint.pod) == (23, "stray-x3")
    path.write_bytes(EVENT.replace(b'"connections":23', b'"connections":31'))  # it was rolled
    assert [event.connections for event in tail.latest()] == [31, 23]


def test_more_peers_than_there_are_lines_for_are_counted() -> None:
    peer = ("external", "", "", "internet")
    many = "".join(
        flow("flow_bytes_total", "stray", "egress", *peer, str(port), "unknown", value=port)
        + flow("connections_total", "stray", "egress", *peer, str(port), "unknown", value=1)
        for port in range(5000, 5023)
    )
    lines = drawn(after_ten_seconds(METRICS + many))
    # The most bytes first, and before them what is denied.
    assert "-> private :4444   ! denied" in lines[6]
    assert "-> internet :5022  unknown" in lines[7]
    assert any("and 21 more" in line for line in lines)


def test_a_protocol_without_ports_goes_by_its_name() -> None:
    served = PodConversation("office", "icmp", "0", 23, False, "allowed")
    asked = PodConversation("db", "icmp", "0", 23, False, "allowed")
    row = PodRow("p", (served,), (asked,), 23, 23, 2, 0)
    lines = drawn(Snapshot(1, (row,), (), ()), Style(80, colour=False))
    assert lines[4].startswith("p    icmp <- office  allowed  ")
    assert lines[5].startswith("     -> db (icmp)    allowed  ")


def test_books_that_close_have_no_faults() -> None:
    assert faults(after_ten_seconds()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('ptd-stray",direction="egress"} 0.0', 'ptd-stray",direction="egress"} 23', "ptd-stray egress: a gap of 23 bytes"),
        ('ptd-stray",direction="egress"} 0.0', 'ptd-stray",direction="egress"} -23', "ptd-stray egress: a gap of -23 bytes"),
        ('podtally_books_gap_bytes{interface="ptd-stray",direction="egress"}', "other", "ptd-stray egress: no gap reported"),
        ('pod="stray-x2",direction="ingress"} 230', 'pod="stray-x2",direction="ingress"} 0', "pod stray-x2: no traffic in both directions"),
        (DENIED, "", "pod stray-x2: not denied according to podtally_policy_denied_total"),
        ('port="4444",verdict="denied"} 460', 'port="4444",verdict="allowed"} 460', "pod stray-x2: not denied according to the flows' verdict"),
    ],
)  # fmt: skip
def test_a_fault_is_named(old: str, new: str, fault: str) -> None:
    assert old in METRICS
    final = after_ten_seconds(METRICS.replace(old, new))
    assert faults(final) == [fault]
    assert fault in drawn(final)


@pytest.mark.parametrize(
    "events",
    [
        (),
        (msgspec.structs.replace(STRAYS, event="undeclared"),),
        (msgspec.structs.replace(STRAYS, direction="ingress"),),
        (
            msgspec.structs.replace(
                STRAYS, endpoint=msgspec.structs.replace(STRAYS.endpoint, pod="frontend-7d")
            ),
        ),
    ],
)
def test_a_stray_pod_without_events_is_a_fault(events: tuple[EventRecord, ...]) -> None:
    final = after_ten_seconds(events=events)
    assert faults(final) == ["pod stray-x2: not denied according to the event log"]


def test_pods_without_traffic_are_faults() -> None:
    assert len(faults(nothing_yet())) == 2 + 1 + 4


def test_json_has_what_the_table_has() -> None:
    found = json.loads(to_json(after_ten_seconds()))
    assert found["faults"] == []
    assert found["pods"][1]["outbound"] == [
        {
            "peer": "private",
            "protocol": "tcp",
            "port": "4444",
            "bytes": 460,
            "outside": True,
            "verdict": "denied",
        }
    ]
    assert found["pods"][1]["denied"] == 23
    assert found["events"] == [json.loads(EVENT)]
    assert found["books"][0] == {
        "interface": "ptd-frontend", "direction": "ingress",
        "flows": 1234567, "other": 84, "overflow": 0, "gap": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("up 1", Sample("up", {}, 1)),
        ("up{} 1 1700000000000", Sample("up", {}, 1)),
        (r'a{b="x\"}, y=\\\n"} 9007199254740993', Sample("a", {"b": 'x"}, y=\\\n'}, 2**53 + 1)),
        ('a{b="",c="d",} 1.5', Sample("a", {"b": "", "c": "d"}, 1.5)),
        ("a +Inf", Sample("a", {}, float("inf"))),
    ],
)
def test_a_line_of_the_exposition(line: str, sample: Sample) -> None:
    assert parse(f"# TYPE a counter\n\n{line}\n") == [sample]


def test_a_line_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="a page of HTML"):
        parse("<a page of HTML>\n")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (100_000, "100 kB"), (123456, "123 kB"), (2.3e9, "2.3 GB"), (23e12, "23.0 TB")],
)  # fmt: skip
def test_bytes_for_people(count: float, text: str) -> None:
    assert human(count) == text

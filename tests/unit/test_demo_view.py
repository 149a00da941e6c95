"""The demo's view: from the text of /metrics to the lines on the screen."""

import json
import re
from pathlib import Path

import pytest

from podtally import config
from podtally.demo.scrape import Sample, parse
from podtally.demo.snapshot import PodRow, Snapshot, Use, faults, take
from podtally.demo.topology import BACKEND, DATABASE, FRONTEND, STRAY, agent_config
from podtally.demo.view import Style, human, render, to_json

URL = "http://127.0.0.1:9775/metrics"
PODS = (FRONTEND, STRAY)
LABELS = 'namespace="shop",workload="{}",workload_kind="Deployment",direction="{}",peer_kind="{}",peer_namespace="{}",peer_workload="{}",scope="{}",protocol="tcp",port="{}",verdict="{}"'


def flow(name: str, *labels: str, value: int) -> str:
    return f"podtally_{name}{{{LABELS.format(*labels)}}} {value}\n"


CUSTOMERS = ("external", "", "customers", "internet", "80")
BACKEND_ASKED = ("pod", "shop", "backend", "node", "3000")
NAMELESS = ("external", "", "", "private", "4444")

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
    + flow("flow_bytes_total", "frontend", "ingress", *CUSTOMERS, "unknown", value=1000)
    + flow("flow_bytes_total", "frontend", "egress", *CUSTOMERS, "unknown", value=4000)
    + flow("flow_bytes_total", "frontend", "egress", *CUSTOMERS, "allowed", value=500)
    + flow("connections_total", "frontend", "ingress", *CUSTOMERS, "unknown", value=23)
    + flow("flow_bytes_total", "frontend", "egress", *BACKEND_ASKED, "unknown", value=300)
    + flow("flow_bytes_total", "frontend", "ingress", *BACKEND_ASKED, "unknown", value=400)
    + flow("connections_total", "frontend", "egress", *BACKEND_ASKED, "unknown", value=23)
    + flow("flow_bytes_total", "stray", "egress", *NAMELESS, "unknown", value=460)
    + flow("connections_total", "stray", "egress", *NAMELESS, "unknown", value=23)
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

GOLDEN = """\
user -> frontend :80 -> backend :3000 -> database :3306, and a stray
10 s of traffic; all that podtally counts: http://127.0.0.1:9775/metrics

POD          INGRESS, BY    EGRESS, TO             RECEIVED     SENT  PACKETS      RATE
frontend-7d  :80 customers  backend (port 3000)      1.2 MB  34.6 kB    1,234  123 kB/s
stray-x2     -              ! private (port 4444)     230 B    460 B       23    69 B/s

BOOKS (BYTES)               FLOWS  OTHER  OVERFLOW  GAP
ptd-frontend   ingress  1,234,567     84         0    0
ptd-frontend   egress   1,234,567     84         0    0
ptd-stray      ingress  1,234,567     84         0    0
ptd-stray      egress   1,234,567     84         0    0

the books close: 4,938,604 bytes on the interfaces, each one accounted for"""


def nothing_yet() -> Snapshot:
    return take([], PODS, 0.0)


def after_ten_seconds(metrics: str = METRICS) -> Snapshot:
    return take(parse(metrics), PODS, 10.0)


def test_the_table() -> None:
    lines = render(after_ten_seconds(), nothing_yet(), URL, Style(120, colour=False))
    assert "\n".join(lines) == GOLDEN


def test_a_narrow_terminal_sees_one_figure_for_both_directions_and_no_line_too_long() -> None:
    lines = render(after_ten_seconds(), nothing_yet(), URL, Style(80, colour=False))
    row = re.sub(" +", " ", lines[4])
    assert row == "frontend-7d :80 customers backend (port 3000) 1.2 MB 1,234 123 kB/s"
    assert max(map(len, lines)) <= 80
    lines = render(after_ten_seconds(), nothing_yet(), URL, Style(40, colour=False))
    assert max(map(len, lines[3:])) <= 40


def test_an_outside_target_stands_out_in_colour() -> None:
    lines = render(after_ten_seconds(), nothing_yet(), URL, Style(120, colour=True))
    assert "\x1b[31;1m! private (port 4444)" in "\n".join(lines)


def test_who_began_the_connection_tells_a_served_port_from_one_asked() -> None:
    frontend, stray = after_ten_seconds().pods
    assert frontend.served == (Use("customers", "tcp", "80", 5500, outside=False),)
    assert frontend.asked == (Use("backend", "tcp", "3000", 700, outside=False),)
    assert stray.asked == (Use("private", "tcp", "4444", 460, outside=True),)


def test_more_peers_than_there_are_lines_for_are_counted() -> None:
    many = "".join(
        flow(
            "flow_bytes_total",
            "stray",
            "egress",
            "external",
            "",
            "",
            "internet",
            str(port),
            "unknown",
            value=port,
        )
        + flow(
            "connections_total",
            "stray",
            "egress",
            "external",
            "",
            "",
            "internet",
            str(port),
            "unknown",
            value=1,
        )
        for port in range(5000, 5023)
    )
    lines = render(after_ten_seconds(METRICS + many), nothing_yet(), URL, Style(120, colour=False))
    assert any("! internet (port 5022)" in line for line in lines)
    assert any("and 21 more" in line for line in lines)


def test_a_protocol_without_ports_goes_by_its_name() -> None:
    row = PodRow(
        "p",
        (Use("customers", "icmp", "0", 23, False),),
        (Use("db", "icmp", "0", 23, False),),
        23,
        23,
        2,
    )
    lines = render(Snapshot(1, (row,), ()), nothing_yet(), URL, Style(120, colour=False))
    assert lines[4].startswith("p    icmp customers  db (icmp)")


def test_books_that_close_have_no_faults() -> None:
    assert faults(after_ten_seconds()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('ptd-stray",direction="egress"} 0.0', 'ptd-stray",direction="egress"} 23', "ptd-stray egress: a gap of 23 bytes"),
        ('ptd-stray",direction="egress"} 0.0', 'ptd-stray",direction="egress"} -23', "ptd-stray egress: a gap of -23 bytes"),
        ('podtally_books_gap_bytes{interface="ptd-stray",direction="egress"}', "other", "ptd-stray egress: no gap reported"),
        ('pod="stray-x2",direction="ingress"} 230', 'pod="stray-x2",direction="ingress"} 0', "pod stray-x2: no traffic seen both ways"),
    ],
)  # fmt: skip
def test_a_fault_is_named(old: str, new: str, fault: str) -> None:
    assert old in METRICS
    final = after_ten_seconds(METRICS.replace(old, new))
    assert faults(final) == [fault]
    assert fault in render(final, nothing_yet(), URL, Style(120, colour=False))


def test_silence_is_no_proof_that_the_books_close() -> None:
    assert len(faults(nothing_yet())) == 2 + 4


def test_json_says_what_the_table_says() -> None:
    found = json.loads(to_json(after_ten_seconds()))
    assert found["faults"] == []
    assert found["pods"][1]["asked"] == [
        {"peer": "private", "protocol": "tcp", "port": "4444", "bytes": 460, "outside": True}
    ]
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


def test_the_agent_understands_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text(agent_config())
    read = config.load(file, {})
    assert [endpoint.name for endpoint in read.endpoints] == [
        pod.pod for pod in (FRONTEND, BACKEND, DATABASE, STRAY)
    ]
    assert read.endpoints[0] == config.StaticEndpoint(
        netns="podtally-demo-frontend", namespace="shop", name="frontend-7d",
        workload="frontend", workload_kind="Deployment", labels={"app": "frontend"},
    )  # fmt: skip
    assert read.networks == {"customers": ("203.0.113.0/25",)}

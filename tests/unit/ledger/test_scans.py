# SPDX-License-Identifier: Apache-2.0
"""Scans: what exceeds an endpoint's share of events is one, at no cost to others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from podtally.export.event_log import reason
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.events.events import MAX_PEERS_AND_PORTS, MAX_PORTS, Due, EventLabels, Events
from podtally.ledger.events.scans import KEPT, Scan, Scans
from podtally.ledger.metrics.families import SCANS
from podtally.ledger.series.series import SeriesTable
from podtally.ledger.series.shares import level, rank
from podtally.runtime.extras import Extras
from tests.unit.rows import SECOND
from tests.unit.verdict_support import (
    DB_ADDRESS,
    NOTHING_INTO_DB,
    ONLY_MYSQL,
    WEB_FROM_FAR,
    declare,
    due_events,
    epoch,
    into,
    make,
    out,
    present,
)

DB_OUT = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-out, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}
"""


def test_a_scan_is_one_event_and_sums_stay_exact() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out("198.18.7.7", port) for port in range(1, 12_033)])
    due = due_events(ledger, most=10_000)
    assert sum(event.connections for event in due) == 12_032
    assert sum(event.egress_bytes for event in due) == 12_032 * 23
    assert len(due) == MAX_PORTS + 1
    (scan,) = (event for event in due if event.scan is not None)
    assert scan.scan is not None
    assert scan.scan[:3] == (12_032 - MAX_PORTS, 1, True)
    assert reason(scan) == f"scan: {12_032 - MAX_PORTS:,} ports on 1 address"
    assert (scan.labels.workload, scan.labels.peer_address, scan.labels.port) == (
        "web", "198.18.7.7", "other"
    )  # fmt: skip
    (labels,) = ledger.view()[SCANS].labels
    assert labels == ("shop", "web", "egress", "denied")
    assert ledger.view()[SCANS].values.tolist() == [[12_032 - MAX_PORTS]]


def test_a_sweep_of_addresses_is_one_event_of_the_endpoint() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    for second in range(4):
        swept = [f"198.18.{10 + second}.{host}" for host in range(200)]
        epoch(ledger, at._replace(now_ns=(1 + second) * SECOND), [out(a, 80) for a in swept])
    due = due_events(ledger, most=10_000)
    assert sum(event.connections for event in due) == 800
    assert len(due) == MAX_PEERS_AND_PORTS + 1
    (scan,) = (event for event in due if event.scan is not None)
    assert scan.scan is not None
    assert scan.scan[:3] == (1, 700, True)
    assert (scan.labels.pod, scan.labels.peer_kind, scan.labels.policy) == (
        "web-0", "other", "shop/only-mysql"
    )  # fmt: skip


def test_a_scanned_endpoint_reports_another_that_is_denied_as_well() -> None:
    """One source's ports are one event; another source keeps its own."""
    ledger, at = make(), present(declare(WEB_FROM_FAR))
    epoch(ledger, at, [into("198.18.7.7", port) for port in range(1, 3000)])
    epoch(ledger, at, [into("198.18.7.8", 80)])
    due = due_events(ledger, most=10_000)
    (scan,) = (event for event in due if event.scan is not None)
    assert (scan.labels.direction, scan.labels.peer_address) == ("ingress", "198.18.7.7")
    assert reason(scan).endswith("ports from 1 address")
    assert [e.labels.port for e in due if e.labels.peer_address == "198.18.7.8"] == ["80"]


def test_a_scan_takes_no_neighbours_events_and_puts_off_none_of_their_lines() -> None:
    ledger, at = make(events=150), present(declare(ONLY_MYSQL, NOTHING_INTO_DB, DB_OUT))
    scan = [out(f"198.18.{n % 250}.{n // 250}", 80) for n in range(2000)]
    epoch(ledger, at, scan)
    neighbours = [
        out(f"203.0.113.{n}", 22)._replace(ifindex=9, local=DB_ADDRESS) for n in range(1, 6)
    ]
    epoch(ledger, at, neighbours)
    due = due_events(ledger, most=10)
    assert sorted(event.labels.workload for event in due) == ["db"] * 5 + ["web"] * 5
    assert all(event.scan is None for event in due if event.labels.workload == "db")


def test_a_large_transfer_among_many_small_ones_is_named_and_reported_soon() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out(f"198.18.{n // 250}.{n % 250 + 1}", 4611) for n in range(130)])
    indexes, due = ledger.events.due(1000, SECOND, 2 * SECOND)
    assert any(event.scan is not None for event in due)
    ledger.events.mark_reported(indexes, 2 * SECOND)
    large = out("198.18.7.7", 4611)._replace(bytes=(420_000, 0))
    epoch(ledger, at._replace(now_ns=4 * SECOND), [large])
    again = ledger.events.due(1000, SECOND, 4 * SECOND)[1]
    (scan,) = (event for event in again if event.scan is not None)
    assert scan.scan is not None
    assert scan.scan.largest[0] == ("198.18.7.7", 420_000)
    assert reason(scan).endswith("; 420,000 bytes with 198.18.7.7")


def test_bytes_of_peers_are_kept_for_the_largest() -> None:
    scans, address = Scans(), np.zeros((1000, 2), np.uint64)
    address[:, 1] = np.arange(1000)
    scans.observe(np.zeros(1000, np.int32), np.full(1000, 80), address)
    for _ in range(3):
        scans.weigh(np.zeros(1000, np.int32), address, np.arange(1000))
    found = scans.of(0)
    assert found is not None
    assert [amount for _, amount in found.largest] == [3 * 999, 3 * 998, 3 * 997]
    scans.keep([])
    assert not scans._weights


def test_scans_go_on_over_a_restart(tmp_path: Path) -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out("198.18.7.7", port) for port in range(1, 1001)])
    Checkpoint(tmp_path).write(Position("boot", "generation", 23), ledger.save() | Extras().save())
    again, read = make(), Checkpoint(tmp_path).read()
    assert read is not None
    again.load(read[1], 2 * SECOND)
    epoch(again, at._replace(now_ns=3 * SECOND), [out("198.18.7.7", p) for p in range(901, 1901)])
    assert len(again.events) == MAX_PORTS + 1
    (scan,) = (each for each in due_events(again, most=99) if each.scan is not None)
    assert scan.scan is not None
    assert scan.scan[:3] == (1900 - MAX_PORTS, 1, True)
    assert again.view()[SCANS].values.tolist() == [[1900 - MAX_PORTS]]


def test_a_scan_that_is_over_gives_its_share_back() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    for hour in (1, 2):
        now_ns = hour * 3600 * SECOND
        scan = [out("198.18.7.7", port, local_port=hour) for port in range(1, 101)]
        epoch(ledger, at._replace(now_ns=now_ns), scan)
        assert len(due_events(ledger, now_ns, most=99)) == MAX_PORTS + 1
        epoch(ledger, at._replace(now_ns=now_ns + 200 * SECOND), [])
        ledger.expire(at.names, now_ns + 900 * SECOND)
        assert (len(ledger.events), len(ledger.events.scans)) == (0, 0)
        assert not ledger.view()[SCANS].labels


@pytest.mark.parametrize(
    ("counts", "whole", "kept"),
    [
        ([], 10, 0),
        ([3], 10, 3),
        ([20], 10, 10),
        ([2, 3, 5], 10, 5),
        ([2, 3, 100], 10, 5),
        ([2, 50, 100], 10, 4),
        ([50, 100, 2, 7], 20, 6),
        ([1] * 20, 10, 0),
    ],
)
def test_the_most_that_each_may_keep(counts: list[int], whole: int, kept: int) -> None:
    found = level(np.array(counts, np.int64), whole)
    assert found == kept
    assert sum(min(each, found) for each in counts) <= whole


def test_ranks() -> None:
    assert rank(np.array([7, 5, 7, 7, 5, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    assert rank(np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize("addresses", [1, KEPT - 1, 20_000])
def test_different_addresses_are_counted_in_bounded_memory(addresses: int) -> None:
    scans = Scans()
    for start in range(0, addresses, 997):
        some = np.arange(start, min(start + 997, addresses)).astype(np.uint64)
        address = np.stack([np.zeros_like(some), some], axis=1)
        for _ in range(2):  # the same again change nothing
            scans.observe(np.full(len(some), 5, np.int32), some.astype(np.int64) & 1023, address)
    found = scans.of(5)
    assert found is not None
    assert found.ports == min(addresses, 1024)
    assert found.exact == (addresses < KEPT)
    assert abs(found.addresses - addresses) <= (0 if found.exact else addresses / 8)
    assert sum(each.nbytes for each in scans.dump()) == 8 + 8192 + 8 * KEPT


def labels(pod: str, port: int = 80) -> EventLabels:
    made = EventLabels("denied", "egress", "shop", pod, pod, "Deployment", *["x"] * 11)
    return made._replace(port=str(port))


def made_events(*at: tuple[str, int]) -> tuple[Events, list[int]]:
    events = Events(1000, SeriesTable(1))
    numbers = [events.index_of(labels(pod, port), SECOND, SECOND) for pod, port in at]
    events.count(np.array(numbers, np.int32), SECOND)
    return events, numbers


def ports_due(events: Events, most: int, now_ns: int) -> Iterator[tuple[str, str]]:
    index, due = events.due(most, 60 * SECOND, now_ns)
    events.mark_reported(index, now_ns)
    return ((each.labels.pod, each.labels.port) for each in due)


def test_of_new_events_each_endpoints_first_comes_before_any_ones_second() -> None:
    events, _ = made_events(("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("c", 1), ("b", 2))
    order = [list(ports_due(events, 3, 2 * SECOND)) for _ in range(3)]
    assert [pod for pod, _ in order[0]] == ["a", "b", "c"]
    assert sorted(order[1]) == [("a", "2"), ("a", "3"), ("b", "2")]
    assert order[2] == [("a", "4")]


def test_what_was_never_reported_comes_first_and_then_what_was_longest_ago() -> None:
    events, numbers = made_events(("a", 1), ("b", 1), ("c", 1), ("d", 1))
    for second, number in zip((30, 10, 20), numbers[:3], strict=True):
        events.mark_reported([number], second * SECOND)
    events.count(np.array(numbers, np.int32), 100 * SECOND)  # all have grown since
    _, due = events.due(9, 60 * SECOND, 100 * SECOND)
    assert [each.labels.pod for each in due] == ["d", "b", "c", "a"]
    assert [each.labels.pod for each in events.due(2, 60 * SECOND, 100 * SECOND)[1]] == ["d", "b"]
    assert events.pending == 2


def reports(events: Events, number: int, seconds: range, until: int) -> list[tuple[int, int]]:
    """When, and of how many connections, while there is one each second of ``seconds``."""
    due_events = []
    for second in range(seconds.start, until):
        now_ns = second * SECOND
        if second in seconds:
            events.count(np.array([number], np.int32), now_ns)
        index, due = events.due(9, 60 * SECOND, now_ns)
        events.mark_reported(index, now_ns)
        due_events += [(second, each.new_connections) for each in due]
    return due_events


def test_an_event_that_goes_on_is_reported_at_growing_intervals_and_when_it_is_over() -> None:
    """Four hours of one denial a second."""
    events, (number,) = made_events(("a", 1))
    due_events = reports(events, number, range(2, 4 * 3600), 6 * 3600)
    assert len(due_events) < 15
    assert sum(each for _, each in due_events) == 4 * 3600 - 2 + 1
    gaps = np.diff([second for second, _ in due_events])
    assert gaps.max() <= 3600
    assert (gaps[2:8] > gaps[1:7] * 1.5).all()
    assert due_events[-1][0] <= 4 * 3600 + 600  # ten intervals after the last


def test_an_event_that_grows_tenfold_is_not_put_off() -> None:
    events, (number,) = made_events(("a", 1))
    reports(events, number, range(2, 3000), 3000)
    before = int(events.reported[number, 2])
    events.count(np.full(10 * before, number, np.int32), 3000 * SECOND)
    assert reports(events, number, range(3000, 3000), 3000 + 61)


def test_what_is_not_a_scan_has_no_counts() -> None:
    assert Scans().of(5) is None
    events, _ = made_events(("a", 1))
    events.observe(np.array([0], np.int32), np.array([80]), np.zeros((1, 2), np.uint64))
    assert len(events.scans) == 0


def test_words_of_a_scan() -> None:
    due = Due(labels("a")._replace(reason="scan"), 1, 1, 0, 0, 0, 0)
    for scan, words in (
        (Scan(12_032, 1, True), "scan: 12,032 ports on 1 address"),
        (Scan(1, 200, True), "scan: 1 port on 200 addresses"),
        (Scan(2, 12_345, False), "scan: 2 ports on about 12,345 addresses"),
    ):
        assert reason(due._replace(scan=scan)) == words

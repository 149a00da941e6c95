# SPDX-License-Identifier: Apache-2.0
"""Which answers count: only those to a question of the same endpoint."""

from typing import Any

import dns.rcode
import pytest

from podtally.dns.message import NXDOMAIN, SERVFAIL
from podtally.dns.tracker import ANSWER_NS, MAX_OPEN, DnsTracker, Exchange
from podtally.kernel.captured import TCP
from tests.unit.dns_messages import (
    OTHER_POD,
    POD,
    RESOLVER,
    SECOND_NS,
    mapped,
    query,
    received,
    response,
    sent,
)

API = "api.example.com. 30 IN A 203.0.113.7"


def answered(tracker: DnsTracker) -> list[tuple[int, str]]:
    return [(each.endpoint, each.name) for each in tracker.take(2 * SECOND_NS).answers]


def test_an_answer_to_a_question() -> None:
    tracker = DnsTracker()
    tracker.add(sent(query("api.example.com")))
    tracker.add(received(response(query("api.example.com"), API)))
    seen = tracker.take(2 * SECOND_NS)
    [answer] = seen.answers
    assert answer[:4] == (POD, SECOND_NS + 1_000_000, RESOLVER, "api.example.com")
    assert (answer.addresses, answer.ttl) == ((mapped("203.0.113.7"),), 30)
    assert seen.exchanges == {Exchange(POD, RESOLVER, 1, 0): 1}
    assert seen.seconds[POD] == (1_000_000, [1] + [0] * 12)
    assert not tracker.take(2 * SECOND_NS).answers


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": OTHER_POD},
        {"local_port": 40001},
        {"remote": mapped("10.99.0.66")},
        {"remote_port": 5353},
        {"local": mapped("10.99.0.6")},
        {"protocol": TCP},
    ],
)
def test_an_answer_to_someone_else_does_not_count(changes: dict[str, Any]) -> None:
    tracker = DnsTracker()
    tracker.add(sent(query("api.example.com")))
    wire = response(query("api.example.com"), API).to_wire()
    if changes.get("protocol") == TCP:
        wire = len(wire).to_bytes(2) + wire
    tracker.add(received(wire, **changes))
    seen = tracker.take(2 * SECOND_NS)
    assert not seen.answers
    assert sum(seen.unsolicited.values()) == 1


def test_another_id_name_or_type_does_not_count() -> None:
    tracker = DnsTracker()
    tracker.add(sent(query("api.example.com")))
    tracker.add(received(response(query("api.example.com", number=1), API)))
    tracker.add(
        received(response(query("api.example.net"), "api.example.net. 30 IN A 203.0.113.7"))
    )
    tracker.add(
        received(
            response(query("api.example.com", "AAAA"), "api.example.com. 30 IN AAAA 2001:db8::1")
        )
    )
    seen = tracker.take(2 * SECOND_NS)
    assert (not seen.answers, seen.unsolicited) == (True, {POD: 3})


def test_addresses_of_service_records_are_hints() -> None:
    tracker = DnsTracker()
    record = "api.example.com. 30 IN HTTPS 1 . ipv4hint=203.0.113.66"
    tracker.add(sent(query("api.example.com", "HTTPS")))
    tracker.add(received(response(query("api.example.com", "HTTPS"), record)))
    tracker.add(sent(query("api.example.com")))
    tracker.add(received(response(query("api.example.com"), record, API)))
    found = [(each.addresses, each.is_hint) for each in tracker.take(2 * SECOND_NS).answers]
    assert found == [((mapped("203.0.113.66"),), True), ((mapped("203.0.113.7"),), False)]


def test_a_pods_own_packet_is_no_answer() -> None:
    """A pod with raw sockets sends itself an answer by way of the host; the real one counts."""
    tracker = DnsTracker()
    tracker.add(sent(query("api.example.com")))
    forged = response(query("api.example.com"), "api.example.com. 30 IN A 203.0.113.66")
    tracker.add(received(forged, via=POD))
    tracker.add(received(response(query("api.example.com"), API), via=2))
    seen = tracker.take(2 * SECOND_NS)
    [answer] = seen.answers
    assert (answer.addresses, answer.via) == ((mapped("203.0.113.7"),), 2)
    assert seen.unsolicited == {POD: 1}


def test_case_does_not_matter() -> None:
    tracker = DnsTracker()
    tracker.add(sent(query("aPi.ExAmPlE.com")))
    tracker.add(received(response(query("ApI.eXaMpLe.COM"), API)))
    assert answered(tracker) == [(POD, "api.example.com")]


def test_an_answer_counts_once_for_each_time_it_was_asked() -> None:
    tracker = DnsTracker()
    for _ in range(2):
        tracker.add(sent(query("api.example.com")))
    for _ in range(3):
        tracker.add(received(response(query("api.example.com"), API)))
    seen = tracker.take(2 * SECOND_NS)
    assert (len(seen.answers), seen.unsolicited) == (2, {POD: 1})


def test_failures_and_silence_are_counted() -> None:
    tracker = DnsTracker()
    for number, code in ((1, NXDOMAIN), (2, SERVFAIL), (3, None)):
        asked = query("gone.example.com", number=number)
        tracker.add(sent(asked))
        if code is not None:
            answer = response(asked)
            answer.set_rcode(dns.rcode.Rcode(code))
            tracker.add(received(answer))
    assert tracker.take(2 * SECOND_NS).exchanges == {
        Exchange(POD, RESOLVER, 1, NXDOMAIN): 1,
        Exchange(POD, RESOLVER, 1, SERVFAIL): 1,
    }
    assert tracker.take(2 * SECOND_NS + ANSWER_NS).exchanges == {Exchange(POD, RESOLVER, 1, -1): 1}


def test_truncated_over_udp_then_whole_over_tcp() -> None:
    tracker, asked = DnsTracker(), query("api.example.com")
    tracker.add(sent(asked))
    short = response(asked)
    short.flags |= 0x0200
    tracker.add(received(short))
    stream = {"protocol": TCP, "local_port": 40002}
    wire = asked.to_wire()
    tracker.add(sent(len(wire).to_bytes(2) + wire, sequence=1000, **stream))
    answer = response(asked, API).to_wire()
    framed = len(answer).to_bytes(2) + answer
    tracker.add(received(framed[:10], sequence=5000, **stream))
    tracker.add(received(framed[10:], sequence=5010, **stream))
    seen = tracker.take(2 * SECOND_NS)
    assert [each.name for each in seen.answers] == ["api.example.com"]
    assert seen.truncated == {POD: 1}


def test_a_flood_of_questions_is_bounded() -> None:
    tracker = DnsTracker()
    tracker.add(sent(query("api.example.com"), endpoint=OTHER_POD))
    for number in range(3 * MAX_OPEN):
        tracker.add(sent(query(f"n{number}.example.com", number=number)))
    assert len(tracker.open_questions()) == MAX_OPEN + 1
    assert tracker.take(2 * SECOND_NS).exchanges == {Exchange(POD, RESOLVER, 1, -1): 2 * MAX_OPEN}
    tracker.add(received(response(query("api.example.com"), API), endpoint=OTHER_POD))
    assert answered(tracker) == [(OTHER_POD, "api.example.com")]


def test_open_questions_survive_a_restart() -> None:
    before, after = DnsTracker(), DnsTracker()
    before.add(sent(query("api.example.com")))
    after.restore(before.open_questions())
    after.add(received(response(query("api.example.com"), API)))
    assert answered(after) == [(POD, "api.example.com")]


def test_long_names_are_counted_by_domain() -> None:
    tracker = DnsTracker()
    for number in range(5):
        tracker.add(sent(query(f"{'x' * 60}{number}.t.evil.example", number=number)))
    tracker.add(sent(query("short.evil.example")))
    assert tracker.take(SECOND_NS).long_names == {(POD, "t.evil.example"): 5}


def test_garbage_is_counted() -> None:
    tracker = DnsTracker()
    tracker.add(sent(b"\0\1\2"))
    assert tracker.take(SECOND_NS).unreadable == {POD: 1}

# SPDX-License-Identifier: Apache-2.0
"""Names by endpoint, address and time."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from podtally.dns import domain_table
from podtally.dns.candidates import NameCandidates
from podtally.dns.domain_table import NO_DOMAINS, DomainTable, restored
from podtally.dns.doubts import LONGEST_TTL
from podtally.dns.known_names import ENCRYPTED_DNS, FORGOTTEN, MESSAGES_LOST, SEEN_LATE
from podtally.dns.message import MAX_TTL
from podtally.dns.peer_naming import ALWAYS_LATE, SEEN_ALL
from podtally.dns.tracker import Answer
from tests.unit.dns_messages import OTHER_POD, POD, RESOLVER, mapped

SECOND = 1_000_000_000
ROGUE = mapped("10.99.0.66")


def answer(name: str, *addresses: str, at: float = 1.0, **changes: object) -> Answer:
    made = Answer(POD, int(at * SECOND), RESOLVER, name, (), tuple(map(mapped, addresses)), 30)
    return made._replace(**changes)  # type: ignore[arg-type]


def words(*addresses: str) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(map(mapped, addresses)), ">u8").reshape(-1, 2).astype(np.uint64)


def looked_up(
    table: DomainTable, endpoint: int, address: str, at: float
) -> list[tuple[str, float, bool]]:
    """Return names with the time of the answer and trust, oldest first."""
    times = np.array([int(at * SECOND)])
    trusted = table.trust({RESOLVER})
    found = table.find(np.array([endpoint]), words(address), times, trusted)
    candidates = table.candidates(found, times, np.zeros(1, np.uint8), trusted, 0.0)
    return listed(candidates, 0)


def missing(table: DomainTable, at: float) -> list[int]:
    """Return why names of the two pods may be missing at a time."""
    times = np.full(2, int(at * SECOND))
    found: list[int] = table.doubts.at(np.array([POD, OTHER_POD]), times).tolist()
    return found


def listed(candidates: NameCandidates, row: int) -> list[tuple[str, float, bool]]:
    span = slice(*candidates.offsets[row : row + 2].tolist())
    return [
        (candidates.table[name], answered, trust)
        for name, answered, trust in zip(
            candidates.names[span].tolist(),
            candidates.answered[span].tolist(),
            candidates.trusted[span].tolist(),
            strict=True,
        )
    ]


def test_a_name_counts_from_its_answer_on() -> None:
    table = NO_DOMAINS.updated([answer("a.example", "203.0.113.1")], 2 * SECOND)
    assert looked_up(table, POD, "203.0.113.1", 0.9) == []
    assert looked_up(table, POD, "203.0.113.1", 1.0) == [("a.example", 1.0, True)]
    assert looked_up(table, POD, "203.0.113.1", 9999.0) == [("a.example", 1.0, True)]
    assert looked_up(table, POD, "203.0.113.2", 2.0) == []


def test_what_another_pod_asked_for_names_nothing_here() -> None:
    table = NO_DOMAINS.updated([answer("a.example", "203.0.113.1")], 2 * SECOND)
    assert looked_up(table, OTHER_POD, "203.0.113.1", 2.0) == []


def test_several_names_and_the_latest_answer_of_each() -> None:
    answers = [
        answer("a.example", "203.0.113.1", at=1.0),
        answer("b.example", "203.0.113.1", at=2.0),
        answer("a.example", "203.0.113.1", at=3.0),
        answer("a.example", "203.0.113.1", at=5.0),
    ]
    table = NO_DOMAINS.updated(answers, 6 * SECOND)
    assert looked_up(table, POD, "203.0.113.1", 4.0) == [
        ("b.example", 2.0, True),
        ("a.example", 3.0, True),
    ]
    assert looked_up(table, POD, "203.0.113.1", 2.5) == [
        ("a.example", 1.0, True),
        ("b.example", 2.0, True),
    ]


def test_a_rogue_resolver_does_not_hide_the_trusted_answer() -> None:
    answers = [
        answer("a.example", "203.0.113.1"),
        answer("a.example", "203.0.113.1", at=2.0, resolver=ROGUE),
    ]
    table = NO_DOMAINS.updated(answers, 3 * SECOND)
    assert looked_up(table, POD, "203.0.113.1", 3.0) == [
        ("a.example", 1.0, True),
        ("a.example", 2.0, False),
    ]


def test_what_a_pod_answers_with_an_address_of_another_is_not_trusted() -> None:
    """Interfaces 8 and 9 are of pods of this host: 8 serves DNS, 9 forges its address."""
    answers = [answer(f"via{via}.example", "203.0.113.1", at=via, via=via) for via in (0, 2, 8, 9)]
    table = NO_DOMAINS.updated(answers, 20 * SECOND)
    senders = {8: {RESOLVER}, 9: {ROGUE}}
    trusted = table.trust({RESOLVER}, senders)
    times = np.array([20 * SECOND])
    found = table.find(np.array([POD]), words("203.0.113.1"), times, trusted)
    candidates = table.candidates(found, times, np.zeros(1, np.uint8), trusted, 0.0)
    assert {name: trust for name, _, trust in listed(candidates, 0)} == {
        "via0.example": True,
        "via2.example": True,
        "via8.example": True,
        "via9.example": False,
    }
    assert restored(table.records, table.values(), 0).resolvers == table.resolvers


def test_old_answers_are_merged_and_the_first_and_last_stay() -> None:
    table, now = NO_DOMAINS, 0
    for second in range(1, 101):
        now = second * SECOND
        table = table.updated([answer("a.example", "203.0.113.1", at=second)], now)
    assert len(table) < 12
    assert looked_up(table, POD, "203.0.113.1", 99.5) == [("a.example", 99.0, True)]
    assert looked_up(table, POD, "203.0.113.1", 1.5) == [("a.example", 1.0, True)]
    assert looked_up(table, POD, "203.0.113.1", 0.5) == []


def test_what_expired_between_dropped_answers_is_not_known() -> None:
    """TTLs of 2 s, asked for every second: never expired, though most answers are dropped."""
    table = NO_DOMAINS
    for second in range(1, 101):
        made = answer("a.example", "203.0.113.1", at=second, ttl=2)
        table = table.updated([made], second * SECOND)
    assert len(table) < 20
    for at in range(1, 100):
        assert not expired(table, at + 0.5), at
    assert expired(table, 103.0)


def test_an_answer_that_expired_before_the_next_is_known_to_have() -> None:
    table = NO_DOMAINS
    for second in (1, 20, 40, 60):
        made = answer("a.example", "203.0.113.1", at=second, ttl=2)
        table = table.updated([made], second * SECOND)
    table = table.updated([answer("b.example", "203.0.113.1", at=100)], 100 * SECOND)
    assert [expired(table, at) for at in (2, 5, 21, 30, 41, 50, 61, 99)] == [False, True] * 4


def test_hints_are_entries_of_their_own() -> None:
    both = [
        answer("a.example", "203.0.113.1", at=1.0),
        answer("a.example", "203.0.113.1", at=2.0, is_hint=True),
    ]
    found = candidates_at(NO_DOMAINS.updated(both, 3 * SECOND), 3.0)
    assert found.hint.tolist() == [False, True]
    assert found.answered.tolist() == [1.0, 2.0]


def candidates_at(table: DomainTable, at: float) -> NameCandidates:
    times, trusted = np.array([int(at * SECOND)]), table.trust({RESOLVER})
    found = table.find(np.array([POD]), words("203.0.113.1"), times, trusted)
    return table.candidates(found, times, np.zeros(1, np.uint8), trusted, 0.0)


def expired(table: DomainTable, at: float) -> bool:
    known = candidates_at(table, at).known(0)
    return not [each for each in known.valid().answers if each.name == "a.example"]


def test_many_at_once_agree_with_a_plain_search() -> None:
    random = np.random.default_rng(23)
    answers = [
        answer(
            f"n{random.integers(20)}.example",
            *{f"203.0.113.{i}" for i in random.integers(1, 9, 3)},
            at=int(at),
            endpoint=int(random.integers(1, 4)),
        )
        for at in random.integers(1, 4, 300)
    ]
    table = NO_DOMAINS.updated(answers[:100], 4 * SECOND).updated(answers[100:], 4 * SECOND)
    endpoints = random.integers(1, 5, 200)
    addresses = [f"203.0.113.{i}" for i in random.integers(1, 12, 200)]
    times = random.integers(0, 5, 200) * SECOND
    trusted = table.trust({RESOLVER})
    found = table.find(endpoints, words(*addresses), times, trusted)
    candidates = table.candidates(found, times, np.zeros(200, np.uint8), trusted, 0.0)
    for row in range(200):
        expected: dict[str, float] = {}
        for each in answers:
            if (
                each.endpoint == endpoints[row]
                and mapped(addresses[row]) in each.addresses
                and each.at_ns <= times[row]
            ):
                expected[each.name] = max(expected.get(each.name, 0.0), each.at_ns / SECOND)
        assert {name: at for name, at, _ in listed(candidates, row)} == expected


def test_limits_take_the_oldest_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_table, "MAX_RECORDS", 100)
    greedy = [answer(f"n{i}.example", f"203.0.{i // 250}.{i % 250}", at=i) for i in range(1, 500)]
    modest = [answer("b.example", "203.0.113.1", endpoint=OTHER_POD)]
    table = NO_DOMAINS.updated([*greedy, *modest], 500 * SECOND)
    assert len(table) == 100
    assert table.forgotten == 400
    assert looked_up(table, OTHER_POD, "203.0.113.1", 500.0) == [("b.example", 1.0, True)]
    assert looked_up(table, POD, "203.0.1.249", 500.0) == [("n499.example", 499.0, True)]
    assert missing(table, 500) == [FORGOTTEN, 0]


def test_one_address_with_many_names_is_bounded() -> None:
    names = [answer(f"n{i}.example", "203.0.113.1", at=i / 1000) for i in range(1, 3000)]
    table = NO_DOMAINS.updated(names, 3 * SECOND)
    assert len(table) == domain_table.MAX_RECORDS_OF_PAIR
    assert looked_up(table, POD, "203.0.113.1", 3.0)[-1][0] == "n2999.example"


def test_names_beyond_the_bound_of_an_address_leave_a_doubt() -> None:
    """100 names of one address are kept, however often they are asked for."""
    for count, forgotten in ((100, 0), (300, FORGOTTEN)):
        table = NO_DOMAINS
        for turn in range(9):
            answers = [
                answer(f"n{n}.example", "203.0.113.1", at=1 + turn * 10 + n / 1000)
                for n in range(count)
            ]
            table = table.updated(answers, (11 + turn * 10) * SECOND)
        names = {name for name, _, _ in looked_up(table, POD, "203.0.113.1", 999.0)}
        assert len(names) >= 100
        assert missing(table, 99) == [forgotten, 0]
        assert bool(table.forgotten) is bool(forgotten)


def test_unused_names_are_dropped() -> None:
    table = NO_DOMAINS
    for turn in range(5):
        batch = [answer(f"t{turn}n{i}.example", "203.0.113.1", at=turn + 1) for i in range(1000)]
        table = table.updated(batch, (turn + 1) * SECOND)
    assert len(table.texts) < 3 * 1000
    assert looked_up(table, POD, "203.0.113.1", 9.0)[-1][0].startswith("t4n")


def lossy(at: float, why: int = MESSAGES_LOST, table: DomainTable = NO_DOMAINS) -> DomainTable:
    return table.updated([], int(at * SECOND), missing=[(POD, why)])


def test_a_loss_is_a_doubt_until_no_answer_of_that_time_is_of_use() -> None:
    table = lossy(10)
    ends = 10 + LONGEST_TTL
    assert missing(table, 10) == missing(table, ends) == [MESSAGES_LOST, 0]
    assert missing(table, ends + 0.5) == [0, 0]


def test_later_losses_prolong_the_doubt_and_other_answers_do_not_end_it() -> None:
    table = lossy(500, table=lossy(10))
    table = table.updated([answer("a.example", "203.0.113.1", at=600)], 600 * SECOND)
    assert missing(table, 500 + LONGEST_TTL) == [MESSAGES_LOST, 0]
    assert missing(table, 501 + LONGEST_TTL) == [0, 0]


def test_connections_of_the_time_of_a_loss_stay_in_doubt() -> None:
    """They are judged again when policies change, long after the doubt ended for new ones."""
    table = lossy(10).updated([answer("a.example", "203.0.113.1", at=1e6)], int(1e6) * SECOND)
    assert missing(table, 11) == [MESSAGES_LOST, 0]
    assert missing(table, 1e6) == [0, 0]


@pytest.mark.parametrize("first", [True, False])
def test_a_longer_ttl_that_the_endpoint_got_counts(*, first: bool) -> None:
    """Before or after the loss; up to what resolvers keep at most, so not for ever."""
    long = [answer("a.example", "203.0.113.1", at=5, ttl=3 * LONGEST_TTL)]
    table = NO_DOMAINS.updated(long if first else [], 5 * SECOND)
    table = lossy(10, table=table).updated([] if first else long, 20 * SECOND)
    assert missing(table, 10 + 3 * LONGEST_TTL) == [MESSAGES_LOST, 0]
    assert missing(table, 11 + 3 * LONGEST_TTL) == [0, 0]
    table = table.updated([answer("b.example", "203.0.113.2", ttl=1 << 31)], 30 * SECOND)
    assert missing(table, 10 + MAX_TTL) == [MESSAGES_LOST, 0]
    assert missing(table, 11 + MAX_TTL) == [0, 0]


def test_short_ttls_and_those_of_others_change_nothing() -> None:
    answers = [
        answer("a.example", "203.0.113.1", ttl=1),
        answer("b.example", "203.0.113.2", endpoint=OTHER_POD, ttl=MAX_TTL),
    ]
    table = lossy(10).updated(answers, 20 * SECOND)
    assert missing(table, 10 + LONGEST_TTL) == [MESSAGES_LOST, 0]
    assert missing(table, 11 + LONGEST_TTL) == [0, 0]


def test_encrypted_dns_goes_on_and_causes_end_one_by_one() -> None:
    table = lossy(50, FORGOTTEN, lossy(10, MESSAGES_LOST | ENCRYPTED_DNS))
    assert missing(table, 20 + LONGEST_TTL) == [FORGOTTEN | ENCRYPTED_DNS, 0]
    assert missing(table, 1e9) == [ENCRYPTED_DNS, 0]


def test_who_was_there_before_the_agent_is_seen_completely_one_day() -> None:
    doubts = lossy(0).updated([answer("a.example", "203.0.113.1", ttl=2 * LONGEST_TTL)], 1).doubts
    since = np.array([10, 10, SEEN_ALL, ALWAYS_LATE])
    since[:2] *= SECOND
    endpoints = np.array([OTHER_POD, POD, OTHER_POD, OTHER_POD])
    for at, expected in (
        (10 + LONGEST_TTL, [SEEN_LATE, SEEN_LATE, 0, SEEN_LATE]),
        (11 + LONGEST_TTL, [0, SEEN_LATE, 0, SEEN_LATE]),
        (11 + 2 * LONGEST_TTL, [0, 0, 0, SEEN_LATE]),
    ):
        assert doubts.seen_late(endpoints, since, np.full(4, at * SECOND)).tolist() == expected


def test_doubts_of_an_earlier_version_begin_again() -> None:
    values = msgspec.structs.replace(lossy(10).values(), doubts=[])
    table = restored(NO_DOMAINS.records.copy(), values, 100 * SECOND)
    assert missing(table, 100 + LONGEST_TTL) == [MESSAGES_LOST, 0]
    assert missing(table, 101 + LONGEST_TTL) == [0, 0]


def test_removed_endpoints_are_forgotten() -> None:
    table = NO_DOMAINS.updated([answer("a.example", "203.0.113.1")], SECOND, missing=[(POD, 4)])
    table = table.updated([], 2 * SECOND, gone={POD})
    assert (len(table), table.doubts.bits()) == (0, [])


def test_a_long_ttl_is_forgotten_with_its_endpoint_and_kept_for_others() -> None:
    """The kernel gives the number of a removed interface out again."""
    long = [
        answer("a.example", "203.0.113.1", endpoint=each, ttl=3 * LONGEST_TTL)
        for each in (POD, OTHER_POD)
    ]
    table = NO_DOMAINS.updated(long, SECOND).updated([], 2 * SECOND, gone={POD})
    lost = [(POD, MESSAGES_LOST), (OTHER_POD, MESSAGES_LOST)]
    table = table.updated([], 10 * SECOND, missing=lost)
    assert missing(table, 11 + LONGEST_TTL) == [0, MESSAGES_LOST]
    after = restored(table.records.copy(), table.values(), 0)
    assert missing(after, 11 + LONGEST_TTL) == [0, MESSAGES_LOST]


def test_the_checkpoint() -> None:
    answers = [
        answer("a.example", "203.0.113.1", chain=("b.example", "c.example")),
        answer("d.example", "203.0.113.2"),
    ]
    before = NO_DOMAINS.updated(answers, 2 * SECOND, missing=[(9, 4)])
    after = restored(before.records.copy(), before.values(), 3 * SECOND)
    assert looked_up(after, POD, "203.0.113.1", 2.0) == [("a.example", 1.0, True)]
    assert after.doubts == before.doubts
    with pytest.raises(ValueError, match="name is missing"):
        restored(before.records.copy(), NO_DOMAINS.values(), 0)

# SPDX-License-Identifier: Apache-2.0
"""Owners of an address by time: resolved claims, compared with a plain reading of the rules."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

from podtally.identity import addresses
from podtally.identity.addresses import AddressTable, ClaimBook
from podtally.identity.claims import CONFIRMED, FACT, FIRST_GAP_NS, GAP_NS, Interval, resolve
from podtally.identity.model import DISPUTED, FOREVER, Claim, Owner

SECOND = 1_000_000_000
START = 1000 * SECOND
API, HOST = 10, 1
UNSETTLED = DISPUTED._replace(final=False)
WEB = Owner("pod", "shop", "web-0", "web", "node", uid="1")
WEB_LABELLED = WEB._replace(labels=(("app", "web"),))
API_POD = Owner("pod", "shop", "api-0", "api", "cluster", uid="2")
BARE = Owner("pod", "shop", "web-0", "web", "node")  # no UID: identified by its name
DNS = Owner("service", "kube-system", "dns", "dns", "cluster")
NODE = Owner("host", "", "host", "host", "node")
WEB_WITH_PORTS = WEB._replace(ports=(("http", 6, 80),))  # as the API reports; others report none
OWNERS = (WEB, WEB_LABELLED, WEB_WITH_PORTS, API_POD, BARE, DNS, NODE)
ADDRESS = 0xFFFF << 32 | 0x0A630001  # 10.99.0.1
ADDRESSES = (ADDRESS, ADDRESS + 1, 0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 0xFFFF0A630001, 0)


def at(seconds: float) -> int:
    return FOREVER if seconds == float("inf") else START + int(seconds * SECOND)


def claim(owner: Owner, start: float, end: float = float("inf"), strength: int = API) -> Claim:
    return Claim(ADDRESS, owner, at(start), at(end), strength)


def holder(claims: Sequence[Claim], at_ns: int) -> Owner | None:
    """The rules, read for one instant."""
    claims = [each for each in claims if each.from_ns < each.until_ns]
    active = [each for each in claims if each.from_ns <= at_ns < each.until_ns]
    if not active:
        next_ns = min((c.from_ns for c in claims if c.from_ns > at_ns), default=None)
        first = all(c.from_ns > at_ns for c in claims)
        if next_ns is None or next_ns - at_ns > (FIRST_GAP_NS if first else GAP_NS):
            return None
        proved = max(c.strength for c in claims if c.from_ns <= next_ns < c.until_ns) >= FACT
        return holder(claims, next_ns) if proved else None
    strength = max(each.strength for each in active)
    active = [each for each in active if each.strength == strength]
    if strength < FACT and len({c.owner.uid or c.owner[:3] for c in active}) > 1:
        return UNSETTLED if sum(c.until_ns == FOREVER for c in active) > 1 else DISPUTED
    last = max(active, key=lambda c: (c.from_ns, c.owner[:-1], c.owner.ports or (), c.until_ns))
    others = [
        c for c in active if (c.owner.uid or c.owner[:3]) != (last.owner.uid or last.owner[:3])
    ]
    if strength >= FACT and any(c.until_ns >= last.until_ns for c in others):
        return DISPUTED
    return last.owner


def instants(claims: Sequence[Claim]) -> list[int]:
    """Return every time at which the owner may change, and the moments before and after."""
    bounds = {ns for c in claims for ns in (c.from_ns, c.until_ns) if ns != FOREVER}
    bounds |= {c.from_ns - gap for c in claims for gap in (GAP_NS, FIRST_GAP_NS)}
    return sorted({ns + beside for ns in bounds for beside in (-1, 0, 1)} | {FOREVER - 1})


def held(intervals: Sequence[Interval], at_ns: int) -> Owner | None:
    owners = [i.owner for i in intervals if i.from_ns <= at_ns < i.until_ns]
    assert len(owners) <= 1
    return owners[0] if owners else None


# Few different times, so that claims touch, nest and leave gaps on both sides of a second.
seconds = st.sampled_from([0, 0.5, 1, 1.5, 2, 4, 4.5, 5, 5.5, 7, 20, 31, 31.5])
claims_of = st.builds(
    claim,
    st.sampled_from(OWNERS),
    seconds,
    st.one_of(seconds, st.just(float("inf"))),
    st.sampled_from([HOST, API, FACT - 1, FACT, 30]),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(claims_of, max_size=7))
def test_every_instant_follows_the_rules(claims: list[Claim]) -> None:
    intervals = resolve(claims)
    for each in instants(claims):
        assert held(intervals, each) == holder(claims, each), each - START
    for before, after in pairwise(intervals):
        assert before.until_ns <= after.from_ns
        assert (before.until_ns, before.owner) != (after.from_ns, after.owner)
    shuffled = random.Random(len(claims)).sample(claims, len(claims))
    assert resolve(shuffled) == intervals


@pytest.mark.parametrize(
    ("why", "claims", "expected"),
    [
        ("no one", [], []),
        ("a bound from outside is no sooner", [claim(WEB, 20, 30)], [(20, 30, WEB)]),
        ("one, heard late", [claim(WEB, 20, 30, FACT)], [(10, 30, WEB)]),
        ("a claim of no time", [claim(WEB, 20, 20)], []),
        (
            "of two claims that begin together, the longer shows that the other owner ended first",
            [
                claim(WEB, 0, 10, FACT),
                *(claim(API_POD, 5, end, FACT) for end in (float("inf"), 10)),
            ],
            [(-10, 5, WEB), (5, float("inf"), API_POD)],
        ),
        (
            "one after the other",
            [claim(WEB, 0, 10), claim(API_POD, 10)],
            [(0, 10, WEB), (10, float("inf"), API_POD)],
        ),
        (
            "a gap between bounds has no owner",
            [claim(WEB, 0, 10), claim(API_POD, 10.5)],
            [(0, 10, WEB), (10.5, float("inf"), API_POD)],
        ),
        (
            "a short gap is the later one's",
            [claim(WEB, 0, 10), claim(API_POD, 10.5, strength=FACT)],
            [(0, 10, WEB), (10, float("inf"), API_POD)],
        ),
        (
            "of a long gap only the end",
            [claim(WEB, 0, 10, FACT), claim(API_POD, 15, strength=FACT)],
            [(-10, 10, WEB), (14, float("inf"), API_POD)],
        ),
        (
            "bounds overlap: it is unknown",
            [claim(WEB, 0, 12), claim(API_POD, 10, 20)],
            [(0, 10, WEB), (10, 12, DISPUTED), (12, 20, API_POD)],
        ),
        (
            "the end of the older has been reported",
            [claim(WEB, 0, 12), claim(API_POD, 10)],
            [(0, 10, WEB), (10, 12, DISPUTED), (12, float("inf"), API_POD)],
        ),
        (
            "the end of the older may still be reported",
            [claim(WEB, 0), claim(API_POD, 10)],
            [(0, 10, WEB), (10, float("inf"), UNSETTLED)],
        ),
        (
            "the same pod reported twice",
            [claim(WEB, 0), claim(WEB_LABELLED, 10)],
            [(0, 10, WEB), (10, float("inf"), WEB_LABELLED)],
        ),
        (
            "an interface of this host knows better than the API",
            [claim(WEB, 0), claim(API_POD, 4, 6, FACT)],
            [(0, 4, WEB), (4, 6, API_POD), (6, float("inf"), WEB)],
        ),
        (
            "of two interfaces the one that got it last, if the other has to let it go",
            [claim(WEB, 0, 6, FACT), claim(API_POD, 4, strength=FACT)],
            [(-10, 4, WEB), (4, float("inf"), API_POD)],
        ),
        (
            "an interface that takes what another has",
            [claim(WEB, 0, strength=FACT), claim(API_POD, 4, 6, FACT)],
            [(-10, 4, WEB), (4, 6, DISPUTED), (6, float("inf"), WEB)],
        ),
        (
            "two have it now",
            [claim(WEB, 0, strength=FACT), claim(API_POD, 4, strength=FACT)],
            [(-10, 4, WEB), (4, float("inf"), DISPUTED)],
        ),
        (
            "what the API confirms is beyond dispute",
            [claim(WEB, 0, strength=CONFIRMED), claim(API_POD, 4, strength=FACT)],
            [(-10, float("inf"), WEB)],
        ),
        (
            "what always was gives way, and leaves no gap to reach into",
            [Claim(ADDRESS, NODE, 0, FOREVER, HOST), claim(WEB, 5, 6, FACT)],
            [(-1000, 5, NODE), (5, 6, WEB), (6, float("inf"), NODE)],
        ),
    ],
)
def test_resolving(
    why: str, claims: list[Claim], expected: list[tuple[float, float, Owner]]
) -> None:
    wanted = [Interval(at(start), at(end), owner) for start, end, owner in expected]
    assert resolve(claims) == wanted, why


def halves(numbers: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    word = (1 << 64) - 1
    high = np.array([number >> 64 for number in numbers], np.uint64)
    return high, np.array([number & word for number in numbers], np.uint64)


def look_up(table: AddressTable, asked: Sequence[tuple[int, int]]) -> list[Owner | None]:
    """Owners for pairs of an address and a time."""
    times = np.array([at_ns for _, at_ns in asked], np.int64)
    found = table.look_up(*halves([address for address, _ in asked]), times)
    return [table.owners[i] if i >= 0 else None for i in found.tolist()]


class Book(RuleBasedStateMachine):
    """Claims put, replaced, removed and forgotten in any order: the table has the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.book = ClaimBook(OWNERS[:2])
        self.model: dict[str, list[Claim]] = {}
        self.earlier: list[tuple[AddressTable, list[Owner | None]]] = []

    @rule(
        key=st.sampled_from("abcd"),
        claims=st.lists(
            st.builds(
                lambda address, each: each._replace(address=address),
                st.sampled_from(ADDRESSES),
                claims_of,
            ),
            max_size=4,
        ),
    )
    def put(self, key: str, claims: list[Claim]) -> None:
        self.book.put(key, claims)
        self.model[key] = claims

    @rule(before=seconds)
    def forget(self, before: float) -> None:
        self.book.forget(at(before))
        for key, claims in self.model.items():
            self.model[key] = [each for each in claims if each.until_ns > at(before)]

    @rule()
    def remember_the_table(self) -> None:
        table = self.book.table()
        self.earlier.append((table, look_up(table, self.asked(()))))

    @invariant()
    def names_as_resolved(self) -> None:
        claims = [each for claims in self.model.values() for each in claims]
        asked = self.asked(claims)
        table = self.book.table()
        assert table is self.book.table()
        assert look_up(table, asked) == [
            holder([c for c in claims if c.address == address], at_ns) for address, at_ns in asked
        ]
        assert table.owners[:2] == list(OWNERS[:2])

    @invariant()
    def an_earlier_table_stays_as_it_was(self) -> None:
        for table, answers in self.earlier:
            assert look_up(table, self.asked(())) == answers

    def asked(self, claims: Sequence[Claim]) -> list[tuple[int, int]]:
        times = instants(claims) if claims else [at(0), at(5), at(32)]
        return [(address, each) for address in ADDRESSES for each in times]


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


def many(count: int) -> list[Claim]:
    """Consecutive and random IPv6 addresses, some with a history."""
    chance = random.Random(23)
    claims = []
    for i in range(count):
        address = ADDRESS + i if i % 3 else chance.getrandbits(128)
        owners = [
            Owner("pod", "shop", f"web-{i}-{j}", "web", "node", uid=f"{i}-{j}") for j in (0, 1)
        ]
        claims.append(Claim(address, owners[0], at(0), at(10 if i % 2 else float("inf"))))
        if i % 2:
            claims.append(Claim(address, owners[1], at(12)))
    return claims


@pytest.mark.parametrize("multipliers", [None, (1, 1)])
def test_every_address_is_found_among_many(
    multipliers: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if multipliers:  # all IPv4 addresses fall into one bucket
        monkeypatch.setattr(addresses, "_MULTIPLIERS", np.array(multipliers, np.uint64))
    claims = many(2300)
    book = ClaimBook()
    for each in claims:
        book.put(each.owner.uid, [each])
    table = book.table()
    asked = [(each.address, each.from_ns + SECOND) for each in claims]
    assert look_up(table, asked) == [each.owner for each in claims]
    nobody = [(each.address ^ 1 << 100, each.from_ns + SECOND) for each in claims]
    assert look_up(table, nobody) == [None] * len(claims)
    assert look_up(table, [(each.address, at(-11)) for each in claims]) == [None] * len(claims)
    for each in claims[::2]:
        book.put(each.owner.uid, [])
    assert look_up(book.table(), asked[::2]) != look_up(table, asked[::2])
    left = {each.owner.uid for each in claims[1::2]}
    found = look_up(book.table(), asked)
    assert {owner.uid for owner in found if owner is not None} == left


def test_no_claims() -> None:
    assert look_up(ClaimBook().table(), [(ADDRESS, at(0)), (0, 0), (0, FOREVER)]) == [None] * 3
    assert look_up(ClaimBook().table(), []) == []


def test_a_table_is_made_only_when_a_claim_changed() -> None:
    book = ClaimBook()
    book.put("web", [claim(WEB, 0, 10)])
    table = book.table()
    book.put("web", [claim(WEB, 0, 10)])
    book.put("nobody", [])
    book.forget(at(9))
    assert book.table() is table
    book.put("web", [claim(WEB, 0, 11)])
    assert book.table() is not table
    book.forget(at(11))
    assert look_up(book.table(), [(ADDRESS, at(5))]) == [None]
    assert look_up(table, [(ADDRESS, at(5))]) == [WEB]


def test_a_key_claims_an_address_more_than_once() -> None:
    book = ClaimBook()
    book.put("veth7", [claim(WEB, 0, 10, FACT), claim(API_POD, 20, 30, FACT)])
    book.put("veth9", [claim(DNS, 12, 14, FACT)])
    assert book.claims(ADDRESS) == [
        Claim(ADDRESS, WEB, at(-10), at(10)),
        Claim(ADDRESS, DNS, at(11), at(14)),
        Claim(ADDRESS, API_POD, at(19), at(30)),
    ]
    book.forget(at(14))
    assert book.claims(ADDRESS) == [Claim(ADDRESS, API_POD, at(10), at(30))]
    assert book.claims(ADDRESS + 1) == []


def test_owners_are_listed_once_and_former_ones_released() -> None:
    book = ClaimBook([NODE, DNS])
    book.put("stays", [Claim(ADDRESS + 1, WEB, at(0))])
    lists = set()
    for i in range(5000):
        owner = API_POD._replace(name=f"api-{i}", uid=f"{i}")
        book.put("comes", [claim(owner, i, i + 1), claim(DNS, i + 1)])
        table = book.table()
        lists.add(id(table.owners))
        assert list(table.owners[:2]) == [NODE, DNS]
        assert look_up(table, [(ADDRESS, at(i)), (ADDRESS, at(i + 2)), (ADDRESS + 1, at(1))]) == [
            owner,
            DNS,
            WEB,
        ]
        assert len(table.owners) < 200
    assert len(set(table.owners)) == len(table.owners)
    assert 1 < len(lists) < 60


@pytest.mark.parametrize(
    ("why", "claims", "since", "expected"),
    [
        ("taken over", [claim(WEB, 0, 10), claim(API_POD, 10)], 10, True),
        ("taken over before", [claim(WEB, 0, 10), claim(API_POD, 10)], 10.1, False),
        ("got", [claim(WEB, 20)], 10, True),
        ("lost", [claim(WEB, 0, 10)], 5, True),
        ("lost before", [claim(WEB, 0, 10)], 10.1, False),
        ("had all the time", [claim(WEB, 0)], 0.1, False),
        ("the same one, reported twice", [claim(WEB, 0, 10), claim(WEB, 9, 60)], 5, True),
        ("the same one, reported twice", [claim(WEB, 0, 10), claim(WEB, 9)], 5, False),
        ("beaten", [claim(WEB, 0, 60, FACT), claim(API_POD, 10, 20)], 61, False),
    ],
)
def test_recently_reassigned_addresses(
    why: str, claims: list[Claim], since: float, expected: bool
) -> None:
    book = ClaimBook()
    book.put("it", claims)
    high, low = book.table().recent(at(since))
    assert (
        list(zip(high.tolist(), low.tolist(), strict=True))
        == [(ADDRESS >> 64, ADDRESS & (1 << 64) - 1)] * expected
    ), why


def test_recently_reassigned_addresses_are_sorted_and_unique() -> None:
    book = ClaimBook()
    for i, address in enumerate(ADDRESSES):
        book.put(i, [Claim(address, WEB, at(0), at(5)), Claim(address, DNS, at(5), at(9))])
    high, low = book.table().recent(at(0))
    assert high.dtype == low.dtype == np.dtype(np.uint64)
    assert [h << 64 | w for h, w in zip(high.tolist(), low.tolist(), strict=True)] == sorted(
        ADDRESSES
    )

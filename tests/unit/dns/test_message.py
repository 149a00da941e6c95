# SPDX-License-Identifier: Apache-2.0
"""The DNS parser, with dnspython as its oracle, and hostile messages."""

import contextlib
import random
from itertools import pairwise

import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.dns.message import MAX_RECORDS, Message, parse_message
from podtally.dns.wire_names import MAX_JUMPS, MessageError, display_name, name_text, read_labels
from tests.unit.dns_messages import mapped, query, response

CHAIN = (
    "www.example.com. 300 IN CNAME cdn.example.net.",
    "cdn.example.net. 20 IN CNAME e7.edge.example.org.",
    "e7.edge.example.org. 60 IN A 203.0.113.7",
    "e7.edge.example.org. 60 IN A 203.0.113.8",
)


def parsed(data: bytes) -> Message:
    found = parse_message(data)
    assert found is not None
    return found


def test_a_query() -> None:
    asked = parsed(query("API.Example.com", "AAAA", 23).to_wire())
    assert (asked.id, asked.is_response, asked.name, asked.type) == (
        23,
        False,
        "api.example.com",
        28,
    )


def test_a_chain_of_aliases_belongs_to_the_queried_name() -> None:
    found = parsed(response(query("www.example.com"), *CHAIN).to_wire())
    assert found.addresses == (mapped("203.0.113.7"), mapped("203.0.113.8"))
    assert found.ttl == 20
    assert [name_text(each) for each in found.chain] == ["cdn.example.net", "e7.edge.example.org"]


def test_records_in_any_order() -> None:
    found = parsed(response(query("www.example.com"), *reversed(CHAIN)).to_wire())
    assert len(found.addresses) == 2


def test_a_broken_chain_gives_no_address() -> None:
    found = parsed(response(query("www.example.com"), CHAIN[0], CHAIN[2]).to_wire())
    assert found.addresses == ()


def test_addresses_of_another_owner_are_no_answer() -> None:
    found = parsed(response(query("good.example"), "evil.example. 60 IN A 203.0.113.66").to_wire())
    assert found.addresses == ()


def test_a_loop_of_aliases_ends() -> None:
    loop = ("a.example. 1 IN CNAME b.example.", "b.example. 1 IN CNAME a.example.")
    assert parsed(response(query("a.example"), *loop).to_wire()).addresses == ()


@pytest.mark.parametrize("synthesised", [True, False])
def test_dname(synthesised: bool) -> None:
    records = ["old.example. 50 IN DNAME new.example."]
    if synthesised:
        records.append("www.old.example. 50 IN CNAME www.new.example.")
    records.append("www.new.example. 40 IN AAAA 2001:db8::7")
    found = parsed(response(query("www.old.example", "AAAA"), *records).to_wire())
    assert found.addresses == (bytes.fromhex("20010db8000000000000000000000007"),)
    assert found.ttl == 40


def test_a_dname_does_not_rename_its_owner() -> None:
    records = ("old.example. 50 IN DNAME new.example.", "new.example. 40 IN A 203.0.113.9")
    assert parsed(response(query("old.example"), *records).to_wire()).addresses == ()


def test_https_hints() -> None:
    record = 'svc.example. 70 IN HTTPS 1 . alpn="h2" ipv4hint=203.0.113.1,203.0.113.2 ipv6hint=2001:db8::1'
    found = parsed(response(query("svc.example", "HTTPS"), record).to_wire())
    assert len(found.addresses) == 3
    assert found.ttl == 70


def test_https_alias() -> None:
    records = (
        "svc.example. 70 IN HTTPS 0 pool.example.",
        "pool.example. 60 IN HTTPS 1 . ipv4hint=203.0.113.1",
    )
    assert parsed(response(query("svc.example", "HTTPS"), *records).to_wire()).addresses == (
        mapped("203.0.113.1"),
    )


def test_edns_and_truncation() -> None:
    asked = query("big.example")
    asked.use_edns(0, payload=4096)
    answer = response(asked)
    answer.flags |= dns.flags.TC
    assert parsed(answer.to_wire()).is_truncated


def test_what_the_capture_cuts_counts_as_far_as_it_goes() -> None:
    records = [f"many.example. 60 IN A 203.0.113.{i}" for i in range(1, 101)]
    wire = response(query("many.example"), *records).to_wire()
    found = parsed(wire[:700])
    assert found.is_cut
    assert 30 < len(found.addresses) < 100
    assert len(parsed(wire).addresses) == 100


def test_other_kinds_of_messages_are_none() -> None:
    wire = bytearray(query("a.example").to_wire())
    wire[2] |= 0x28  # UPDATE
    assert parse_message(bytes(wire)) is None


def test_names_as_people_write_them() -> None:
    labels, _ = read_labels(b"\x03a.b\x02\xc3\xa4\x04_tcp\0", 0)
    assert name_text(labels) == "a\\046b.\\195\\164._tcp"
    assert display_name("xn--bcher-kva.example") == "xn--bcher-kva.example (bücher.example)"
    assert display_name("plain.example") == "plain.example"
    assert display_name("xn--.example") == "xn--.example"


def test_pointers_only_go_back() -> None:
    with pytest.raises(MessageError):
        read_labels(b"\xc0\0", 0)
    with pytest.raises(MessageError):
        read_labels(b"\x01a\xc0\0", 0)


NAMES = st.lists(st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True), min_size=1, max_size=5).map(
    ".".join
)
ADDRESSES = st.lists(st.integers(1, 254), min_size=1, max_size=20, unique=True)


@given(NAMES, st.lists(NAMES, max_size=4), ADDRESSES, st.randoms())
@settings(max_examples=150, deadline=None)
def test_against_dnspython(
    name: str, aliases: list[str], hosts: list[int], order: random.Random
) -> None:
    chain = [
        name,
        *dict.fromkeys(alias.lower() for alias in aliases if alias.lower() != name.lower()),
    ]
    records = [f"{one}. 5 IN CNAME {two}." for one, two in pairwise(chain)]
    records += [f"{chain[-1]}. 9 IN A 203.0.113.{host}" for host in hosts]
    order.shuffle(records)
    wire = response(query(name), *records).to_wire()
    found, message = parsed(wire), dns.message.from_wire(wire)
    assert isinstance(message, dns.message.QueryMessage)
    oracle = message.resolve_chaining()
    assert oracle.answer is not None
    assert set(found.addresses) == {mapped(each.address) for each in oracle.answer}
    assert found.ttl == oracle.minimum_ttl
    canonical = name_text(found.chain[-1]) if found.chain else name.lower()
    assert canonical == str(oracle.canonical_name).lower()[:-1]


def hostile(random_: random.Random) -> bytes:
    """Return a message that is mutated, truncated or made of pointers."""
    wire = bytearray(response(query("www.example.com"), *CHAIN).to_wire())
    match random_.randrange(4):
        case 0:
            for _ in range(random_.randrange(1, 9)):
                wire[random_.randrange(len(wire))] = random_.randrange(256)
        case 1:
            del wire[random_.randrange(len(wire)) :]
        case 2:
            for _ in range(3):
                at = random_.randrange(12, len(wire) - 1)
                wire[at : at + 2] = bytes((0xC0 | random_.randrange(64), random_.randrange(256)))
        case _:
            wire += random_.randbytes(random_.randrange(2000))
            wire[6:8] = b"\xff\xff"
    return bytes(wire)


def test_hostile_messages_raise_nothing_else() -> None:
    random_ = random.Random(23)
    for _ in range(3000):
        with contextlib.suppress(MessageError):
            parse_message(hostile(random_))


@pytest.mark.parametrize("jumps", [MAX_JUMPS, MAX_JUMPS + 1])
def test_pointers_to_pointers_are_few(jumps: int) -> None:
    """A long row of them, followed again for each of many records, would take a second."""
    wire, first = b"\x01a\0", 3
    for each in range(jumps):
        wire += (0xC000 | (first + 2 * (each - 1) if each else 0)).to_bytes(2)
    expected = pytest.raises(MessageError, match="of pointers")
    with contextlib.nullcontext() if jumps == MAX_JUMPS else expected:
        assert read_labels(wire, len(wire) - 2) == ((b"a",), len(wire))


def test_the_work_of_one_message_is_bounded() -> None:
    """64 KiB of owners that are all long, and each another one."""
    wire = bytearray(query("a.example").to_wire())
    wire[2:4], wire[6:8] = b"\x81\x80", b"\xff\xff"
    wire += b"\x01x" * 126
    for i in range(5000):
        wire += (0xC000 | 12 + 2 * (i % 126)).to_bytes(
            2
        ) + b"\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04"
    found = parsed(bytes(wire))
    assert found.is_cut
    assert len(found.addresses) <= MAX_RECORDS

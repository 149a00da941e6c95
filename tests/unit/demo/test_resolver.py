# SPDX-License-Identifier: Apache-2.0
"""The demo's resolver, as dnspython reads it."""

import dns.message
import dns.rcode
import pytest

from podtally.demo.resolver import answer, query
from podtally.demo.topology import BANK, BANK_NAME, LEAK_NAME, OUTSIDE


@pytest.mark.parametrize(("name", "address"), [(LEAK_NAME, OUTSIDE.address), (BANK_NAME, BANK)])
def test_a_name_has_its_address(name: str, address: str) -> None:
    asked = dns.message.from_wire(query(name, 4711))
    answered = dns.message.from_wire(answer(asked.to_wire()))
    assert asked.is_response(answered)
    assert [str(each) for each in answered.answer] == [f"{name}. 30 IN A {address}"]


def test_other_names_and_types_have_none() -> None:
    absent = dns.message.make_query("absent.example.net", "A")
    answered = dns.message.from_wire(answer(absent.to_wire()))
    assert answered.rcode() == dns.rcode.NXDOMAIN
    ipv6 = dns.message.make_query(LEAK_NAME, "AAAA")
    answered = dns.message.from_wire(answer(ipv6.to_wire()))
    assert (answered.rcode(), answered.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("message", [b"", b"\0" * 11, answer(query(LEAK_NAME, 1))])
def test_what_is_not_a_question_is_ignored(message: bytes) -> None:
    assert answer(message) == b""

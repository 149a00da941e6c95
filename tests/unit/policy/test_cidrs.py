# SPDX-License-Identifier: Apache-2.0
"""CIDRs and names as the API server reads them."""

import pytest

from podtally.policy.cidr import parse_address, parse_cel, parse_sloppy
from podtally.policy.validate.names import (
    dns_label,
    dns_subdomain,
    generated_name,
    host_name,
    label_value,
    port_name,
    qualified_name,
)

MAPPED = 0xFFFF << 32


@pytest.mark.parametrize(
    ("text", "address", "bits", "canonical", "cel"),
    [
        ("10.0.0.0/8", MAPPED | 10 << 24, 104, True, True),
        ("10.0.0.1/8", MAPPED | 10 << 24 | 1, 104, False, True),
        ("10.00.0.0/8", MAPPED | 10 << 24, 104, False, False),
        ("10.0.0.0/08", MAPPED | 10 << 24, 104, False, False),
        ("0.0.0.0/0", MAPPED, 96, True, True),
        ("2001:db8::/32", 0x20010DB8 << 96, 32, True, True),
        ("2001:0db8::/32", 0x20010DB8 << 96, 32, True, True),
        ("2001:00db8::/32", 0x20010DB8 << 96, 32, False, False),
        ("::/0", 0, 0, True, True),
        ("::ffff:10.0.0.0/104", MAPPED | 10 << 24, 104, False, False),
        ("64:ff9b::192.0.2.0/120", 0x64FF9B << 96 | 0xC0000200, 120, True, True),
    ],
)
def test_cidrs(text: str, address: int, bits: int, canonical: bool, cel: bool) -> None:
    cidr = parse_sloppy(text)
    assert cidr is not None
    assert (cidr.address, cidr.bits, cidr.canonical) == (address, bits, canonical)
    assert (parse_cel(text) is not None) is cel


@pytest.mark.parametrize(
    "text",
    ["", "/", "10.0.0.0", "10.0.0.0/", "/8", "10.0.0/8", "10.0.0.256/8", "10.0.0.0/33", "10.0.0.0/-1",
     "10.0.0.0/8/8", "::/129", ":::/1", "1:2:3:4:5:6:7:8:9/1", "::1%1/1", "1.2.3.4::/1", "::1.2.3/1",
     "\u0661.0.0.0/8", "10.0.0.0/\u0661", " 10.0.0.0/8", "10.0.0.0/8\n", "0x0a.0.0.0/8", ".." + "1" * 99,
     "12345::/1", "1.2.3.4.5/1", "...", ".", "1.1111"],
)  # fmt: skip
def test_invalid_cidrs(text: str) -> None:
    assert parse_sloppy(text) is None
    assert parse_cel(text) is None
    assert parse_address(text) is None or "/" not in text


def test_names() -> None:
    taken = {
        dns_label: ["a", "0", "a-b", "a" * 63],
        dns_subdomain: ["a.b-c.0", ".".join(["a" * 61] * 4)],
        generated_name: ["a-", "a", "a.b-"],
        host_name: ["*.a.b", "a.b"],
        qualified_name: ["a", "A_b.c-d", "a.b/C", "1/2"],
        label_value: ["", "A", "a_b.c-d", "a" * 63],
        port_name: ["a", "a1", "1a", "a-b"],
    }
    refused = {
        dns_label: ["", "a.b", "-a", "a-", "A", "a" * 64, "a\n", "ä"],
        dns_subdomain: ["", ".a", "a..b", "a_b", "a" * 254, "a\n"],
        generated_name: ["", "-", "..-x", "A.b-", "Abc-"],
        host_name: ["*", "*.", "a.*", "*a.b", "**.b"],
        qualified_name: ["", "/", "/a", "a/", "A/b", "a/b/c", "-a", "a" * 64, "a b", "a\n"],
        label_value: ["-", "a-", "a" * 64, "a/b", "a b", "a\n"],
        port_name: ["", "1", "-", "-a", "a-", "a--b", "A", "a_b", "a" * 16, "a\n"],
    }
    for check, names in taken.items():
        assert [name for name in names if check(name)] == []
    for check, names in refused.items():
        assert [name for name in names if not check(name)] == []

# SPDX-License-Identifier: Apache-2.0
"""Longest-prefix match, compared with a linear search."""

import ipaddress
from ipaddress import IPv4Network, IPv6Address, IPv6Network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.identity.networks import PrefixTable, parse_prefix

Network = IPv4Network | IPv6Network
WORD = (1 << 64) - 1
MAPPED = 0xFFFF << 32
LAST = (1 << 128) - 1


def look_up(table: PrefixTable, addresses: list[int]) -> list[int]:
    high = np.array([address >> 64 for address in addresses], np.uint64)
    low = np.array([address & WORD for address in addresses], np.uint64)
    values: list[int] = table.look_up(high, low).tolist()
    return values


def number(text: str) -> int:
    address = ipaddress.ip_address(text)
    return int(address) | (MAPPED if address.version == 4 else 0)


def bounds(network: Network) -> tuple[int, int]:
    """The first and the last address, as IPv6."""
    offset = MAPPED if network.version == 4 else 0
    return int(network.network_address) | offset, int(network.broadcast_address) | offset


def brute_force(networks: list[Network], address: int) -> int:
    """Return the position of the last of the narrowest networks around an address, from 1; 0: none."""
    width = 1 << 129
    found = 0
    for place, network in enumerate(networks, 1):
        first, last = bounds(network)
        if first <= address <= last and last - first <= width:
            width, found = last - first, place
    return found


def _v4(first: int, bits: int) -> Network:
    return IPv4Network((first, bits), strict=False)


def _v6(first: int, bits: int) -> Network:
    return IPv6Network((first, bits), strict=False)


# Few different bits, so that networks nest, touch and repeat.
v4 = st.builds(
    _v4,
    st.sampled_from([0, 0x0A630000, 0x0A638000, 0x0A63C000, 0x0A63FFFF, 0xC6120000, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 8, 15, 16, 17, 18, 31, 32]),
)
v6 = st.builds(
    _v6,
    st.builds(
        lambda high, low: high << 64 | low,
        st.sampled_from([0, 1, 0x20010DB800000000, 0x20010DB800000001, 0x20010DB8FFFFFFFF, WORD]),
        st.sampled_from([0, 1, 0xFFFF0A630000, 1 << 63, WORD - 1, WORD]),
    ),
    st.sampled_from([0, 1, 7, 32, 63, 64, 65, 95, 96, 127, 128]),
)
anywhere = st.one_of(
    st.integers(0, LAST),
    st.integers(0, 2**32 - 1).map(lambda v4: v4 | MAPPED),
    st.sampled_from([0, 1, WORD, WORD + 1, MAPPED, MAPPED | 0xFFFFFFFF, LAST]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(v4, v6), max_size=23), st.lists(anywhere, max_size=5))
def test_agrees_with_a_linear_search(networks: list[Network], also: list[int]) -> None:
    table = PrefixTable(
        parse_prefix(str(network), value) for value, network in enumerate(networks, 1)
    )
    addresses = list(also)
    for network in networks:
        first, last = bounds(network)
        beside = (first, last, (first + last) // 2, first - 1, first + 1, last - 1, last + 1)
        addresses += [address for address in beside if 0 <= address <= LAST]
    assert look_up(table, addresses) == [brute_force(networks, each) for each in addresses]


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("10.99.0.0", 1),
        ("10.99.22.255", 1),
        ("10.99.23.0", 2),  # nested
        ("10.99.23.4", 2),
        ("10.99.23.5", 3),  # one address in it
        ("10.99.23.6", 2),
        ("10.99.23.255", 2),
        ("10.99.24.0", 1),
        ("10.99.255.255", 1),
        ("10.100.0.0", 0),
        ("10.98.255.255", 0),
        ("2001:db8::", 4),
        ("2001:db8:0:ffff:ffff:ffff:ffff:ffff", 4),
        ("2001:db8:1::", 0),
        ("2001:db8::23", 5),
        ("2001:db8::24", 4),
        ("::10.99.23.5", 0),  # not the mapped one
        ("::ffff:10.99.23.5", 3),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 6),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", 0),
        ("::", 0),
    ],
)
def test_borders(address: str, value: int) -> None:
    listed = (
        "10.99.0.0/16",
        "10.99.23.0/24",
        "10.99.23.5",
        "2001:db8::/48",
        "2001:db8::23",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    )
    table = PrefixTable(parse_prefix(text, i) for i, text in enumerate(listed, 1))
    assert look_up(table, [number(address)]) == [value]


def test_nothing_listed() -> None:
    assert look_up(PrefixTable([], default=23), [0, LAST]) == [23, 23]
    assert look_up(PrefixTable([]), []) == []


def test_everything_listed() -> None:
    table = PrefixTable([parse_prefix("::/0", 1), parse_prefix("0.0.0.0/0", 2)], default=9)
    assert look_up(table, [0, MAPPED, MAPPED | 0xFFFFFFFF, (MAPPED | 0xFFFFFFFF) + 1, LAST]) == [
        1,
        2,
        2,
        1,
        1,
    ]


def test_ipv4_is_read_as_mapped() -> None:
    assert parse_prefix("203.0.113.0/24", 5) == (int(IPv6Address("::ffff:203.0.113.0")), 120, 5)


@pytest.mark.parametrize("text", ["10.99.0.1/16", "10.99.0.0/33", "web", "", "2001:db8::/129"])
def test_rejects_invalid_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_prefix(text, 1)

# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces and addresses: configured networks and claims."""

import ipaddress

import numpy as np
import pytest

from podtally.identity import name_table
from podtally.identity.addresses import ClaimBook
from podtally.identity.model import (
    FOREVER,
    INTERNET,
    PRIVATE,
    UNKNOWN_ENDPOINT,
    Claim,
    Endpoint,
    Owner,
)
from podtally.identity.name_table import Names

WEB = Endpoint("shop", "web-0", "web", "Deployment", "static")
POD = Owner("pod", "shop", "web-0", "web", "node", "Deployment")
NETWORKS = {
    "office": ("203.0.113.0/24", "2001:db8:23::/48"),
    "lab": ("10.99.0.0/16",),
    "printer": ("10.99.23.5",),
}
NOW_NS = 1_000_000_000_000


def number(text: str) -> int:
    address = ipaddress.ip_address(text)
    return int(address) | (0xFFFF << 32 if address.version == 4 else 0)


def external(name: str, scope: str = "private") -> Owner:
    return Owner("external", "", name, name, scope)


def names(networks: dict[str, tuple[str, ...]], *claims: Claim) -> Names:
    built = name_table.build_networks(networks)
    book = ClaimBook(built.owners)
    book.put("it", claims)
    return name_table.build_names({7: WEB}, {23: WEB}, book.table(), built)


def owner(made: Names, text: str, at_ns: int = NOW_NS) -> Owner:
    halves = divmod(number(text), 1 << 64)
    high, low = (np.array([half], np.uint64) for half in halves)
    return made.owners[int(made.look_up(high, low, np.array([at_ns]))[0])]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("198.18.0.1", INTERNET),
        ("2001:db8::1", INTERNET),
        ("10.98.0.1", PRIVATE),
        ("172.16.0.1", PRIVATE),
        ("172.32.0.1", INTERNET),
        ("192.168.255.255", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("fd00::1", PRIVATE),
        ("127.0.0.1", external("loopback")),
        ("::1", external("loopback")),
        ("169.254.0.1", external("link-local")),
        ("169.254.169.254", external("metadata")),
        ("fd00:ec2::254", external("metadata")),
        ("224.0.0.251", external("multicast")),
        ("ff02::fb", external("multicast")),
        ("255.255.255.255", external("broadcast")),
        ("0.0.0.0", external("unspecified")),
        ("203.0.113.9", external("office", "internet")),
        ("2001:db8:23::9", external("office", "internet")),
        ("10.99.0.9", external("lab")),
        ("10.99.23.5", external("printer")),
        ("10.99.0.7", POD),
    ],
)
def test_owners(address: str, expected: Owner) -> None:
    made = names(NETWORKS, Claim(number("10.99.0.7"), POD, NOW_NS))
    assert owner(made, address) == expected


def test_a_claim_wins_over_a_network_of_one_address_while_it_lasts() -> None:
    made = names(NETWORKS, Claim(number("10.99.23.5"), POD, NOW_NS, NOW_NS + 23))
    assert owner(made, "10.99.23.5") == POD
    assert owner(made, "10.99.23.5", NOW_NS + 22) == POD
    assert owner(made, "10.99.23.5", NOW_NS + 23) == external("printer")


def test_configured_networks_win_over_built_in_ones() -> None:
    made = names({"cloud": ("169.254.169.254",), "everything": ("0.0.0.0/0", "10.0.0.0/8")})
    assert owner(made, "169.254.169.254") == external("cloud")
    assert owner(made, "169.254.0.1") == external("link-local")  # the longer prefix
    assert owner(made, "10.1.2.3") == external("everything")
    # as far away as its first address is without the name
    assert owner(made, "198.18.0.1") == external("everything")
    assert owner(made, "2001:db8::1") == INTERNET


def test_many_at_once_in_their_order() -> None:
    claims = [
        Claim(number(f"10.99.1.{i}"), POD._replace(name=f"{i}"), 0, FOREVER) for i in range(23)
    ]
    made = names(NETWORKS, *claims)
    texts = [f"10.99.1.{i * 7 % 40}" for i in range(40)]
    high, low = (
        np.array(words, np.uint64)
        for words in zip(*(divmod(number(t), 1 << 64) for t in texts), strict=True)
    )
    found = [made.owners[i].name for i in made.look_up(high, low, np.full(40, NOW_NS)).tolist()]
    assert found == [str(i * 7 % 40) if i * 7 % 40 < 23 else "lab" for i in range(40)]


def test_endpoints_without_a_name_are_unknown() -> None:
    made = names({})
    assert made.endpoint(7) == WEB
    assert made.endpoint(9) == UNKNOWN_ENDPOINT
    assert made.sockets == {23: WEB}
    assert set(UNKNOWN_ENDPOINT[:5]) == {"unknown"}


def test_addresses_of_another_books_owners_are_refused() -> None:
    networks = name_table.build_networks(NETWORKS)
    with pytest.raises(ValueError, match=r"networks\.owners"):
        name_table.build_names({}, {}, ClaimBook().table(), networks)


def test_later_names_with_the_same_owners_agree_on_indexes() -> None:
    networks = name_table.build_networks(NETWORKS)
    book = ClaimBook(networks.owners)
    first = name_table.build_names({}, {}, book.table(), networks)
    book.put("it", [Claim(number("10.99.0.7"), POD, NOW_NS)])
    second = name_table.build_names({}, {}, book.table(), networks)
    assert first.owners is second.owners
    assert owner(first, "10.99.0.7") == external("lab")
    assert owner(second, "10.99.0.7") == POD

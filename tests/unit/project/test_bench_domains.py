# SPDX-License-Identifier: Apache-2.0
"""What the benchmark `domains` makes of a flow log."""

from typing import Any

import pytest

from bench.domains import figures
from bench.domains_ends import FIRST_PORT, Truth

NAME = "a.example.net"


def row(domain: str, source: str, port: int = FIRST_PORT) -> dict[str, Any]:
    peer = {"port": 8000} | ({"domain": domain, "domain_source": source} if domain else {})
    return {"endpoint": {"port": port}, "peer": peer, "bytes": {"egress": 100, "ingress": 23}}


def missed(truth: Truth, *rows: dict[str, Any]) -> list[str]:
    return [str(figure) for figure, _, _, ok in figures([truth], [], list(rows), 3) if not ok]


PLAIN = Truth(FIRST_PORT, NAME, is_tls=False, by_dns=True, rivals=0)
OF_PLAIN = "asked DNS, address of one name: named, % of bytes"
OF_TLS = "asked DNS, TLS: named, % of bytes"


@pytest.mark.parametrize("source", ["dns", "tls", "expired"])
def test_another_name_is_a_wrong_one(source: str) -> None:
    assert "bytes under a wrong name" in missed(PLAIN, row("b.example.net", source))
    assert missed(PLAIN, row(NAME, source)) == [OF_TLS]  # there is none


@pytest.mark.parametrize("source", ["ambiguous", "unverified", ""])
def test_a_name_that_is_marked_names_nothing(source: str) -> None:
    assert OF_PLAIN in missed(PLAIN, row("b.example.net" if source else "", source))
    assert "bytes under a wrong name" not in missed(PLAIN, row("b.example.net", "ambiguous"))


def test_of_an_address_with_several_names_none_is_required() -> None:
    shared = PLAIN._replace(rivals=2)
    assert missed(shared, row(NAME, "ambiguous")) == [OF_PLAIN, OF_TLS]
    assert "bytes under a wrong name" in missed(shared, row("b.example.net", "dns"))


def test_a_connection_without_a_row_is_missed() -> None:
    assert "not in the flow log" in missed(PLAIN)

# SPDX-License-Identifier: Apache-2.0
"""Accounts of the kernel in the ledger: growth, restarts, removal."""

import numpy as np
import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import Claim, Owner
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import BOOKS, PODS
from podtally.ledger.series.label_sets import BookLabels, PodLabels
from tests.unit.ledger.ledger_support import booked, contents, flows_of, turn, watched
from tests.unit.rows import (
    FLAGS,
    RST,
    SECOND,
    SYN,
    TCP,
    Flow,
    accounts_of,
    book,
    from_here,
    gaps,
    make_ledger,
    names,
)


def test_kernel_accounts_are_booked_by_what_they_grew() -> None:
    ledger = watched(7, 9)
    for other, overflow in ((23, 0), (23, 101), (64, 101)):
        sums = {
            (9, 1): (5, 0, 1, 0),
            (7, 0): (other, overflow, other // 23, overflow // 101),
            (7, 1): (0, 0, 0, 0),
            (9, 0): (0, 0, 0, 0),
        }
        ledger.book_kernel_accounts(accounts_of(sums))
        turn(ledger)
    assert booked(ledger, "veth7") == [0, 64, 101]
    assert booked(ledger, "veth9", "ingress") == [0, 5, 0]
    assert contents(ledger.view()[PODS])[PodLabels("shop", "web-0", "egress")] == [165, 3]
    assert ledger.view().overflow_packets == 1


def test_an_account_that_shrank_restarted_from_zero() -> None:
    ledger = watched(7)
    for other, overflow in ((101, 5), (23, 7), (29, 7)):
        ledger.book_kernel_accounts(accounts_of({(7, 0): (other, overflow, 1, 1)}))
        turn(ledger)
    assert booked(ledger, "veth7") == [0, 101 + 29, 5 + 7]  # all of its sums, not only one


def test_a_closed_account_restarts_from_zero_though_it_has_grown_beyond() -> None:
    ledger = watched(7, 9)
    ledger.book_kernel_accounts(accounts_of({(7, 0): (101, 0, 1, 0), (9, 1): (5, 0, 1, 0)}))
    turn(ledger)
    ledger.counter_deltas.closed(7)
    ledger.book_kernel_accounts(accounts_of({(7, 0): (211, 0, 2, 0), (9, 1): (7, 0, 1, 0)}))
    turn(ledger)
    assert booked(ledger, "veth7") == [0, 312, 0]
    assert booked(ledger, "veth9", "ingress") == [0, 7, 0]


def test_accounts_of_other_programs_begin_at_nothing() -> None:
    ledger = watched(7)
    ledger.book_kernel_accounts(accounts_of({(7, 0): (101, 0, 1, 0)}))
    turn(ledger)
    ledger.counter_deltas.forget()
    ledger.book_kernel_accounts(accounts_of({(7, 0): (211, 0, 2, 0)}))
    turn(ledger)
    assert booked(ledger, "veth7") == [0, 312, 0]


def test_accounts_that_come_and_go() -> None:
    ledger = watched(7, 9)
    for amounts in (
        {(7, 0): (23, 0, 1, 0)},
        {(9, 0): (5, 0, 1, 0), (7, 0): (24, 0, 1, 0)},
        {},
        {(9, 0): (6, 0, 1, 0)},
    ):
        ledger.book_kernel_accounts(accounts_of(amounts))
        turn(ledger)
    assert booked(ledger, "veth7") == [0, 24, 0]
    assert booked(ledger, "veth9") == [0, 11, 0]


def test_packets_of_unknown_interfaces_are_booked_under_unknown() -> None:
    ledger = watched(7)
    ledger.book_kernel_accounts(accounts_of({(0, 0): (0, 0, 0, 0), (7, 0): (0, 0, 0, 0)}))
    turn(ledger)
    assert BookLabels("unknown", "egress") not in contents(ledger.view()[BOOKS])
    ledger.book_kernel_accounts(accounts_of({(0, 0): (23, 0, 1, 0), (7, 0): (0, 0, 0, 0)}))
    turn(ledger)
    assert booked(ledger, "unknown") == [0, 23, 0]


def test_closed_connections_are_not_kept_without_a_flow_log() -> None:
    ledger = Ledger(FLAGS, make_ledger().limits)
    book(ledger, names(), [Flow(seen=from_here(RST))])
    turn(ledger)
    assert turn(ledger, now_ns=100 * SECOND) == []
    assert len(ledger.connections) == 0


def test_names_are_as_of_the_first_packet() -> None:
    """An address that becomes another's does not take the connections to it along."""
    ledger = watched(7)
    turn(ledger, [Flow(protocol=TCP, remote="198.18.0.9", seen=from_here(SYN))])
    claim = Claim(address_number("198.18.0.9"), Owner("pod", "shop", "db-0", "db", "node"), 0)
    taken = names(claims=[claim])
    turn(ledger, [Flow(protocol=TCP, remote="198.18.0.9", bytes=(5, 0))], taken)
    assert {k.peer_kind: v for k, v in flows_of(ledger).items()} == {"external": [28, 2, 1]}
    turn(ledger, [Flow(remote="198.18.0.9", local_port=5, seen=from_here(SYN))], taken)
    assert {k.peer_kind: v for k, v in flows_of(ledger).items()} == {
        "external": [28, 2, 1],
        "pod": [23, 1, 1],
    }


@pytest.mark.parametrize("counted", [4 * 23, 0], ids=["tags in the data", "tags beside it"])
def test_vlan_tags_are_booked_where_the_interface_counted_them(counted: int) -> None:
    """What skb->len lacks is 4 bytes a tagged frame, or nothing: the counter shows it, at rest."""
    ledger = watched(7)
    for now, counter in ((1, 0), (2, 1000 + counted), (3, 1000 + counted)):
        flows = [Flow(bytes=(1000, 0), packets=(23, 0))] if now == 2 else []
        ledger.book_kernel_accounts(accounts_of({(7, 0): (0, 0, 0, 0)}, tagged=23 * (now >= 2)))
        turn(ledger, flows, now_ns=now * SECOND)
        ledger.close_books(np.array([7]), np.array([[counter, 0]]), now * SECOND)
        assert [gap for _, gap in gaps(ledger.view())] == [0, 0]
    books = contents(ledger.view()[BOOKS])
    assert books[BookLabels("veth7", "egress")] == [1000, counted, 0]
    pods = contents(ledger.view()[PODS])
    assert pods[PodLabels("shop", "web-0", "egress")] == [1000 + counted, 23]
    for _ in range(2):  # what was in doubt is settled: a loss is a loss again
        turn(ledger, now_ns=4 * SECOND)
        ledger.close_books(np.array([7]), np.array([[1023 + counted, 0]]), 4 * SECOND)
    assert gaps(ledger.view())[0][1] == 23

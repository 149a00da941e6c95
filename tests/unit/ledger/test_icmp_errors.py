# SPDX-License-Identifier: Apache-2.0
"""ledger/connections/icmp_errors.py, intake.py: ICMP errors belong to the connection they quote, or are their sender's ICMP."""

import numpy as np
import pytest

from podtally.kernel.table import FlowRows
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import FLOWS
from tests.unit.rows import (
    FLAGS,
    ICMP,
    LAYOUT,
    SECOND,
    TCP,
    UDP,
    Flow,
    book,
    cold_row,
    make_ledger,
    names,
)

ASKED = Flow(protocol=UDP, remote="203.0.113.5", remote_port=53)
ROUTER, PEER = "198.18.0.1", ASKED.remote
FROM, TO = 0, 1


def errors(
    ledger: Ledger, about: Flow, direction: int = TO, sender: str = PEER, now_ns: int = SECOND
) -> None:
    """Book three errors of 30 bytes each, as the kernel has them in a row."""
    relayed = sender != about.remote
    seen = FLAGS.icmp_error | (FLAGS.icmp_relayed if relayed else 0)
    shift = direction + 2 * relayed
    fingerprint = about.fingerprint ^ (FLAGS.error_fingerprint << shift) & (1 << 64) - 1
    row = Flow(sender, ICMP, 0, 0, about.ifindex, about.local, direction)
    amounts = np.array([[90, 0], [3, 0]])
    rows = FlowRows(
        np.array([fingerprint], np.uint64),
        amounts[:1] if direction == FROM else amounts[:1, ::-1],
        amounts[1:] if direction == FROM else amounts[1:, ::-1],
        np.array([seen << FLAGS.shift * direction], np.uint64),
        np.zeros(1, np.int64),
        np.zeros(1, LAYOUT.handshake),
    )
    ledger.book_rows(rows, lambda place: cold_row(row)[place], EpochContext(names(), now_ns))


def settle(ledger: Ledger, now_ns: int = SECOND) -> None:
    ledger.settle(EpochContext(names(), now_ns), [])


def connections(ledger: Ledger) -> dict[tuple[int, str], tuple[int, int]]:
    columns = ledger.connections.columns
    return {
        (int(key["protocol"]), key["remote_address"].tobytes()[-4:].hex()): (int(sent), int(got))
        for key, (sent, got) in zip(columns.key, columns.bytes, strict=True)
    }


PEER_HEX, ROUTER_HEX = "cb007105", "c6120001"


@pytest.mark.parametrize("sender", [PEER, ROUTER])
@pytest.mark.parametrize("order", ["error first", "error last", "next epoch", "much later"])
def test_an_error_is_booked_with_what_it_quotes(sender: str, order: str) -> None:
    ledger = make_ledger()
    now_ns = SECOND
    if order == "error first":
        errors(ledger, ASKED, TO, sender)
    book(ledger, names(), [ASKED])
    if order in ("next epoch", "much later"):
        settle(ledger)
        now_ns = (2 if order == "next epoch" else 100) * SECOND
    if order != "error first":
        errors(ledger, ASKED, TO, sender, now_ns)
    settle(ledger, now_ns)

    assert connections(ledger) == {(UDP, PEER_HEX): (23, 90)}
    counted = [labels for labels in ledger.view()[FLOWS].labels if labels.protocol == "icmp"]
    assert counted == []
    assert len(ledger.connections) == 1


def test_answers_of_ours_are_booked_with_what_they_quote() -> None:
    ledger = make_ledger()
    asked = Flow(protocol=UDP, local_port=53, remote_port=40123, first_direction=TO)
    book(ledger, names(), [asked])
    errors(ledger, asked, FROM)
    settle(ledger)

    assert connections(ledger) == {(UDP, PEER_HEX): (23 + 90, 0)}


@pytest.mark.parametrize(
    ("direction", "sender", "peer"),
    [(FROM, PEER, PEER_HEX), (TO, PEER, PEER_HEX), (TO, ROUTER, ROUTER_HEX)],
    ids=["ours", "theirs", "a router's"],
)
@pytest.mark.parametrize("other", [ASKED._replace(local_port=1), ASKED._replace(protocol=TCP)])
def test_an_error_about_nothing_is_icmp_of_its_sender(
    direction: int, sender: str, peer: str, other: Flow
) -> None:
    """Else whoever wants to send unseen would quote what never was."""
    ledger = make_ledger()
    for now_ns in (SECOND, 2 * SECOND):
        book(ledger, names(), [other], now_ns)
        errors(ledger, ASKED, direction, sender, now_ns)
        settle(ledger, now_ns)

    found = connections(ledger)
    assert found.pop((other.protocol, PEER_HEX)) == (46, 0)
    assert found == {(ICMP, peer): (180, 0) if direction == FROM else (0, 180)}


def test_errors_in_both_directions_and_of_several_senders_are_all_counted() -> None:
    ledger = make_ledger()
    book(ledger, names(), [ASKED])
    for direction, sender in ((TO, PEER), (TO, ROUTER), (FROM, PEER), (FROM, ROUTER)):
        errors(ledger, ASKED, direction, sender)
    settle(ledger)

    assert connections(ledger) == {(UDP, PEER_HEX): (23 + 180, 180)}


def test_bytes_of_errors_are_in_the_books() -> None:
    ledger = make_ledger()
    book(ledger, names(), [ASKED])
    errors(ledger, ASKED)
    errors(ledger, ASKED._replace(local_port=9))
    settle(ledger)

    (booked,) = ledger.interfaces.booked[ledger.interfaces.slots(np.array([7]))]
    assert booked.tolist() == [23, 180]

# SPDX-License-Identifier: Apache-2.0
"""Connections wait for a name a bounded time; what they move meanwhile is booked once, whole."""

from pathlib import Path

import numpy as np
import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import UNKNOWN_ENDPOINT, Claim, Endpoint, Owner
from podtally.identity.name_table import Names
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import BOOKS, FLOWS, PODS
from podtally.ledger.series.label_sets import BookLabels
from podtally.runtime.extras import Extras
from tests.unit.ledger.ledger_support import contents, turn, watched
from tests.unit.rows import (
    ACK,
    RST,
    SECOND,
    SHOP,
    SYN,
    Flow,
    accounts_of,
    book,
    from_here,
    make_ledger,
    names,
)

NAMELESS = UNKNOWN_ENDPOINT._replace(source="pod", uid="23", final=False)
WEB = SHOP[7]
PEER = Owner("pod", "shop", "db-0", "db", "node")
BEGUN = Flow(remote="10.99.0.9", seen=from_here(SYN))
MORE = BEGUN._replace(seen=from_here(ACK), bytes=(29, 31), packets=(1, 1))


def of(endpoint: Endpoint, owner: Owner | None = None) -> Names:
    claims = [Claim(address_number("10.99.0.9"), owner, 0)] if owner is not None else []
    return names({7: endpoint}, claims)


def flows(ledger: Ledger) -> dict[tuple[str, str], list[int]]:
    """Sums by workload and peer's workload, both directions together."""
    sums: dict[tuple[str, str], list[int]] = {}
    for labels, values in contents(ledger.view()[FLOWS]).items():
        key = (labels.workload, labels.peer_workload)
        sums[key] = [a + b for a, b in zip(sums.get(key, [0, 0, 0]), values, strict=True)]
    return sums


def pods(ledger: Ledger) -> dict[str, int]:
    sums: dict[str, int] = {}
    for labels, values in contents(ledger.view()[PODS]).items():
        sums[labels.pod] = sums.get(labels.pod, 0) + values[0]
    return sums


def booked(ledger: Ledger) -> int:
    egress, ingress = (BookLabels("veth7", each) for each in ("egress", "ingress"))
    books = contents(ledger.view()[BOOKS])
    return int(books[egress][0] + books[ingress][0])


def test_a_pod_that_is_named_late_has_all_it_moved() -> None:
    ledger = watched(7)
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=2 * SECOND)
    turn(ledger, [MORE], of(NAMELESS), now_ns=3 * SECOND)
    assert booked(ledger) == 23 + 60  # the interface's books never wait
    assert flows(ledger) == {}
    assert pods(ledger) == {}
    assert ledger.view().waiting == 1
    turn(ledger, [MORE], of(WEB), now_ns=4 * SECOND)
    assert flows(ledger) == {("web", ""): [23 + 120, 5, 1]}
    assert pods(ledger) == {"web-0": 23 + 120}
    assert ledger.view().waiting == ledger.view().name_timeouts == 0
    turn(ledger, [MORE], of(WEB), now_ns=5 * SECOND)
    assert flows(ledger) == {("web", ""): [23 + 180, 7, 1]}


def test_a_pod_that_is_never_named_is_unknown_and_counted() -> None:
    ledger = watched(7)
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=2 * SECOND)
    turn(ledger, [], of(NAMELESS._replace(final=True)), now_ns=12 * SECOND)
    assert flows(ledger) == {("unknown", ""): [23, 1, 1]}
    assert pods(ledger) == {"unknown": 23}


def test_a_name_that_never_comes_is_given_up() -> None:
    ledger = watched(7)
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=2 * SECOND)
    turn(ledger, [], of(NAMELESS), now_ns=20 * SECOND)
    assert flows(ledger) == {}
    turn(ledger, [], of(NAMELESS), now_ns=21 * SECOND)
    assert flows(ledger) == {("unknown", ""): [23, 1, 1]}
    assert ledger.view().name_timeouts == 1


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("over", [False, True])
def test_the_wait_outlives_connection_and_interface(over: bool, gone: bool) -> None:
    ledger = watched(7)
    last = MORE._replace(seen=from_here(RST)) if over else MORE
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=2 * SECOND)
    turn(ledger, [last], of(NAMELESS), gone=[7] if gone else [], now_ns=3 * SECOND)
    turn(ledger, [], of(NAMELESS), now_ns=6 * SECOND)
    assert flows(ledger) == {}
    assert booked(ledger) == 83
    assert ledger.interfaces.known(7)
    ended = turn(ledger, [], of(WEB), now_ns=7 * SECOND)
    assert flows(ledger) == {("web", ""): [83, 3, 1]}
    assert pods(ledger) == {"web-0": 83}
    assert ledger.interfaces.known(7) is not gone
    assert len(ended) == (over or gone)
    for each in ended:
        assert {a.workload for a in each.accounts.values()} == {"web"}
    turn(ledger, [], of(WEB), now_ns=8 * SECOND)
    assert flows(ledger) == {("web", ""): [83, 3, 1]}


def test_what_the_kernel_books_beside_flows_waits_with_the_pod() -> None:
    ledger = watched(7)
    ledger.book_kernel_accounts(accounts_of({(7, 0): (61, 0, 1, 0), (7, 1): (0, 47, 0, 1)}))
    turn(ledger, [], of(NAMELESS), gone=[7], now_ns=2 * SECOND)
    assert pods(ledger) == {}
    assert ledger.interfaces.known(7)
    turn(ledger, [], of(WEB), now_ns=3 * SECOND)
    assert pods(ledger) == {"web-0": 108}
    assert not ledger.interfaces.known(7)


def test_the_other_end_may_be_named_late_as_well() -> None:
    ledger = watched(7)
    nameless = PEER._replace(namespace="unknown", workload="unknown", final=False)
    turn(ledger, [BEGUN], of(WEB, nameless), now_ns=2 * SECOND)
    assert flows(ledger) == {}
    assert pods(ledger) == {"web-0": 23}  # the pod itself is known
    turn(ledger, [MORE], of(WEB, PEER), now_ns=4 * SECOND)
    assert flows(ledger) == {("web", "db"): [83, 3, 1]}


def test_an_other_end_that_stays_nameless_is_unknown_until_it_is_named() -> None:
    ledger = watched(7)
    nameless = PEER._replace(namespace="", workload="", kind="unknown", final=False)
    turn(ledger, [BEGUN], of(WEB, nameless), now_ns=2 * SECOND)
    turn(ledger, [MORE], of(WEB, nameless), now_ns=12 * SECOND)
    unknown = flows(ledger)
    assert unknown == {("web", ""): [83, 3, 1]}
    assert {labels.peer_kind for labels in ledger.view()[FLOWS].labels} == {"unknown"}
    assert ledger.view().name_timeouts == 1
    turn(ledger, [MORE], of(WEB, PEER), now_ns=13 * SECOND)
    turn(ledger, [MORE], of(WEB, PEER), now_ns=14 * SECOND)
    assert flows(ledger) == {**unknown, ("web", "db"): [120, 4, 0]} or flows(ledger) == {
        ("web", ""): [143, 5, 1],
        ("web", "db"): [60, 2, 0],
    }


def test_a_new_connection_in_the_ports_of_one_that_waits_takes_nothing_from_it() -> None:
    ledger = watched(7)
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=2 * SECOND)
    turn(ledger, [MORE._replace(seen=from_here(RST))], of(NAMELESS), now_ns=3 * SECOND)
    turn(ledger, [BEGUN], of(NAMELESS), now_ns=4 * SECOND)
    assert ledger.view().waiting == 2
    turn(ledger, [], of(WEB), now_ns=5 * SECOND)
    assert flows(ledger) == {("web", ""): [23 + 60 + 23, 4, 2]}


def test_the_wait_survives_a_restart(tmp_path: Path) -> None:
    ledger = watched(7, 9)
    ended = BEGUN._replace(ifindex=9, local="10.99.0.8")
    turn(ledger, [BEGUN, ended], names({7: NAMELESS, 9: NAMELESS}), gone=[9], now_ns=2 * SECOND)
    Checkpoint(tmp_path).write(Position("boot", "generation", 1), ledger.save() | Extras().save())
    read = Checkpoint(tmp_path).read()
    assert read is not None
    after = make_ledger()
    after.load(read[1], 3 * SECOND)
    assert after.view().waiting == 2
    assert flows(after) == {}
    turn(after, [MORE], names({7: WEB, 9: SHOP[9]}), now_ns=4 * SECOND)
    assert flows(after) == {("web", ""): [83, 3, 1], ("db", ""): [23, 1, 1]}
    assert pods(after) == {"web-0": 83, "db-0": 23}
    assert not after.interfaces.known(9)


def test_an_address_that_became_anothers_ends_what_went_to_it() -> None:
    """The same ports, another pod behind them: a connection of its own."""
    ledger = watched(7)
    old, new = PEER, Owner("pod", "shop", "cart-0", "cart", "node")
    address = address_number("10.99.0.9")
    before = names({7: WEB}, [Claim(address, old, 0)])
    after = names(
        {7: WEB},
        [Claim(address, old, 0, 3 * SECOND, 20), Claim(address, new, 3 * SECOND, strength=20)],
    )
    low = np.array([int.from_bytes(address.to_bytes(16, "big")[8:], "little")], np.uint64)
    turn(ledger, [BEGUN], before, now_ns=2 * SECOND)
    for seconds in (4, 5):
        again = MORE._replace(first_seen_ns=seconds * SECOND - 1)
        book(ledger, EpochContext(after, seconds * SECOND, reassigned=low), [again])
        ledger.settle(EpochContext(after, seconds * SECOND), ())
    assert flows(ledger) == {("web", "db"): [23, 1, 1], ("web", "cart"): [120, 4, 1]}
    assert {labels.port for labels in ledger.view()[FLOWS].labels} == {"443"}

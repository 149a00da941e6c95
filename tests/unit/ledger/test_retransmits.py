# SPDX-License-Identifier: Apache-2.0
"""ledger/outcomes/retransmits.py: what TCP sent again counts for the sender's connection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import UNKNOWN_ENDPOINT, Claim, Owner
from podtally.identity.name_table import Names
from podtally.kernel.retransmit_map import NO_RETRANSMITS, RETRANSMIT, RetransmitReading
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.outcome_families import RETRANSMITS, RETRANSMITS_LOST
from tests.unit.ledger.ledger_support import turn, watched
from tests.unit.rows import RST, SECOND, SHOP, SYN, UDP, Flow, from_here, names, to_here, words

WEB = Flow(remote="10.99.0.9", seen=from_here(SYN), local_port=40123, remote_port=5432)
DB = Flow(
    ifindex=9,
    local="10.99.0.9",
    remote="10.99.0.7",
    local_port=5432,
    remote_port=40123,
    first_direction=1,
    seen=to_here(SYN),
)
CLAIMS = [
    Claim(address_number("10.99.0.7"), Owner("pod", "shop", "web-0", "web", "node"), 0),
    Claim(address_number("10.99.0.9"), Owner("pod", "shop", "db-0", "db", "node"), 0),
]
NAMELESS = UNKNOWN_ENDPOINT._replace(source="pod", uid="23", final=False)


def shop() -> Names:
    return names(None, CLAIMS)


def again(*flows: tuple[Flow, int]) -> NDArray[np.void]:
    """Return what the kernel reports where the local ends of flows send again."""
    found = np.zeros(len(flows), RETRANSMIT)
    for row, (flow, count) in zip(found, flows, strict=True):
        row["key"]["source"], row["key"]["destination"] = words(flow.local), words(flow.remote)
        row["key"]["source_port"], row["key"]["destination_port"] = (
            flow.local_port,
            flow.remote_port,
        )
        row["count"] = count
    return found


def epoch(
    ledger: Ledger,
    flows: Sequence[Flow],
    sent: NDArray[np.void] | None = None,
    second: int = 1,
    who: Names | None = None,
) -> None:
    reading = NO_RETRANSMITS if sent is None else RetransmitReading(sent)
    ledger.book_retransmits(reading, second * SECOND)
    turn(ledger, flows, who or shop(), now_ns=second * SECOND)


def counted(ledger: Ledger) -> dict[tuple[str, str, str], int]:
    labels, values = ledger.view()[RETRANSMITS]
    return {
        (each.workload, each.peer_workload, each.port): int(n)
        for each, (n,) in zip(labels, values.tolist(), strict=True)
    }


def test_the_end_that_sends_again_counts_it_once() -> None:
    ledger = watched(7, 9)
    epoch(ledger, [WEB, DB], again((WEB, 3)))
    assert counted(ledger) == {("web", "db", "5432"): 3}
    epoch(ledger, [WEB, DB], again((DB, 2), (WEB, 1)), 2)
    assert counted(ledger) == {("web", "db", "5432"): 4, ("db", "web", "5432"): 2}


def test_what_peers_elsewhere_and_others_send_is_not_counted() -> None:
    ledger = watched(7)
    other = WEB._replace(local_port=40124)
    epoch(ledger, [WEB], again((DB, 5), (other, 7), (WEB._replace(remote="10.99.0.8"), 9)))
    epoch(ledger, [WEB], None, 2)
    epoch(ledger, [WEB], None, 3)
    assert counted(ledger) == {}
    assert not len(ledger.retransmits.waiting)


def test_udp_on_the_same_ports_is_something_else() -> None:
    ledger = watched(7)
    epoch(ledger, [WEB._replace(protocol=UDP, seen=0)], again((WEB, 5)))
    assert counted(ledger) == {}


def test_a_packet_may_be_counted_in_the_epoch_after_its_report() -> None:
    ledger = watched(7)
    epoch(ledger, [WEB._replace(local_port=40124)], again((WEB, 5)))
    epoch(ledger, [WEB], None, 2)
    assert counted(ledger) == {("web", "db", "5432"): 5}
    epoch(ledger, [WEB], None, 3)
    assert counted(ledger) == {("web", "db", "5432"): 5}


def test_a_connection_that_ends_in_the_epoch_counts() -> None:
    ledger = watched(7)
    epoch(ledger, [WEB])
    epoch(ledger, [WEB._replace(seen=from_here(RST))], None, 2)
    epoch(ledger, [], again((WEB, 5)), 30)
    assert counted(ledger) == {("web", "db", "5432"): 5}


def test_what_waits_for_a_name_is_kept_also_by_the_checkpoint() -> None:
    ledger, nameless = watched(7), names({7: NAMELESS}, CLAIMS)
    epoch(ledger, [WEB], again((WEB, 5)), 2, nameless)
    epoch(ledger, [WEB], again((WEB, 2)), 3, nameless)
    assert counted(ledger) == {}
    restored = watched(7)
    restored.load(ledger.save(), 4 * SECOND)
    for each in (ledger, restored):
        epoch(each, [WEB], None, 4, names({7: SHOP[7]}, CLAIMS))
        assert counted(each) == {("web", "db", "5432"): 7}
        assert not len(each.retransmits.waiting)


def test_a_checkpoint_without_the_part_can_be_read() -> None:
    ledger = watched(7)
    epoch(ledger, [WEB], again((WEB, 5)))
    saved = {k: v for k, v in ledger.save().items() if k != "waiting_retransmits"}
    restored = watched(7)
    restored.load(saved, 2 * SECOND)
    restored.settle(EpochContext(shop(), 2 * SECOND), [])
    assert counted(restored) == {("web", "db", "5432"): 5}


def test_what_cannot_be_counted_is_counted_once() -> None:
    """``skipped`` grows with the programs, over a restart, and begins again with new ones."""
    ledger = watched()
    for number, (lost, skipped) in enumerate([(0, 0), (3, 2), (0, 5)], 1):
        ledger.book_retransmits(RetransmitReading(again(), lost, skipped), number * SECOND)
    restarted = watched()
    restarted.load(ledger.save(), 4 * SECOND)
    for second, skipped in ((5, 6), (6, 1)):
        restarted.book_retransmits(RetransmitReading(again(), 0, skipped), second * SECOND)
    labels, values = restarted.view()[RETRANSMITS_LOST]
    found = {each.loss: n for each, (n,) in zip(labels, values.tolist(), strict=True)}
    assert found == {"share": 3, "busy": 7}

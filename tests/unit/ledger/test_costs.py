# SPDX-License-Identifier: Apache-2.0
"""What traffic costs, exactly; and egress as Kubecost names it, and pods in workloads' place."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import Claim, Endpoint, Owner
from podtally.identity.name_table import Names
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.account import Account
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.costs import (
    CONTRACT,
    PARTS,
    SeriesOptions,
    add_cost,
    kubecost_labels,
    parts_per_byte,
)
from podtally.ledger.metrics.families import COSTS, FLOWS, KUBECOST
from podtally.ledger.series.label_sets import CostLabels, KubecostLabels
from podtally.ledger.series.series import SeriesTable
from podtally.runtime.extras import Extras
from tests.unit.rows import FLAGS, SECOND, SHOP, SYN, Flow, book, from_here, names

CENTS_9 = SeriesOptions(egress={"internet": 900}, ingress={})
BOTH = SeriesOptions(egress={"internet": 900, "cross_zone": 100}, ingress={"cross_zone": 25})
PEERS = {
    "10.99.1.1": Owner("pod", "shop", "db-1", "db", "cross_zone"),
    "10.99.1.2": Owner("pod", "shop", "cache-1", "cache", "zone"),
}
WEB = Endpoint("shop", "web-0", "web", "Deployment", "cri", uid="1f6c9b1e")


def world() -> Names:
    claims = [Claim(address_number(address), owner, 0) for address, owner in PEERS.items()]
    return names(SHOP | {7: WEB}, claims)


def make(shown: SeriesOptions, series: int = 1000) -> Ledger:
    ledger = Ledger(FLAGS, Limits(series, 10_000, 300 * SECOND), options=shown)
    for ifindex in (7, 9):
        ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (0, 0))
        ledger.interfaces.attached(ifindex, True, (0, 0))
    return ledger


def turn(ledger: Ledger, *flows: Flow, now_ns: int = SECOND) -> None:
    who = world()
    book(ledger, who, flows, now_ns)
    ledger.settle(EpochContext(who, now_ns), [])


def dollars(ledger: Ledger) -> dict[CostLabels, int]:
    """In parts of a dollar."""
    labels, values = ledger.view()[COSTS]
    sums = zip(labels, values.tolist(), strict=True)
    return {each: whole * PARTS + rest for each, (whole, rest) in sums}


def flow(remote: str = "198.18.7.7", sent: int = 0, received: int = 0, port: int = 443) -> Flow:
    return Flow(remote, remote_port=port, seen=from_here(SYN), bytes=(sent, received))


def test_prices_are_parts_of_a_dollar_for_a_byte() -> None:
    assert parts_per_byte([("internet", 0.09), ("zone", 0.0)]) == {"internet": 900, "zone": 0}
    assert 900 * 10**9 / PARTS == 0.09


def test_what_is_sent_and_received_costs_what_its_scope_does() -> None:
    ledger = make(BOTH)
    near, far = flow("10.99.1.2", 1000, 1000), flow("10.99.1.1", 10**9, 3 * 10**9)
    turn(ledger, near, far, flow(sent=2 * 10**9, received=7 * 10**9))
    assert dollars(ledger) == {
        CostLabels("shop", "web", "cross_zone", "egress"): PARTS // 100,
        CostLabels("shop", "web", "cross_zone", "ingress"): 3 * PARTS * 25 // 10_000,
        CostLabels("shop", "web", "internet", "egress"): 18 * PARTS // 100,
    }


def test_without_prices_there_are_no_costs() -> None:
    ledger = make(CONTRACT)
    turn(ledger, flow(sent=10**9))
    assert dollars(ledger) == {}
    assert ledger.view()[KUBECOST].labels == []


def test_nothing_is_lost_to_rounding_however_long_it_goes_on() -> None:
    """Dollars and the rest of one are apart: no sum comes near the end of 64 bits."""
    table: SeriesTable[CostLabels] = SeriesTable(2)
    series = table.index_of(CostLabels("shop", "web", "internet", "egress"), 1)
    dice = np.random.default_rng(23)
    expected = 0
    for _ in range(300):
        parts = dice.integers(0, 1 << 62, 7)
        expected += sum(parts.tolist())
        add_cost(table, np.full(7, series), parts, 1)
    ((whole, rest),) = table.view().values.tolist()
    assert expected > 1 << 64
    assert whole * PARTS + rest == expected
    assert 0 <= rest < PARTS


@pytest.mark.parametrize("cheaper", [SeriesOptions(egress={"internet": 100}), CONTRACT])
def test_a_lower_price_takes_nothing_back(tmp_path: Path, cheaper: SeriesOptions) -> None:
    first, checkpoint = make(CENTS_9), Checkpoint(tmp_path)
    turn(first, flow(sent=10**9))
    checkpoint.write(Position("boot", "generation", 1), first.save() | Extras().save())
    read, again = checkpoint.read(), make(cheaper)
    assert read is not None
    again.load(read[1], SECOND)
    label = CostLabels("shop", "web", "internet", "egress")
    assert dollars(again)[label] == 9 * PARTS // 100
    turn(again, flow(sent=10**9), now_ns=2 * SECOND)
    now = cheaper.egress.get("internet", 0) * 10**9
    assert dollars(again)[label] == 9 * PARTS // 100 + now


def test_costs_beyond_the_series_limit_are_exact() -> None:
    ledger = make(BOTH, series=4)
    flows = [flow(sent=10**9, port=port) for port in range(1, 24)]
    turn(ledger, *flows, flow("10.99.1.1", 10**9, port=99))
    found, by_scope = dollars(ledger), Counter[str]()
    for labels, parts in found.items():
        by_scope[labels.scope] += parts
    assert by_scope == {"internet": 23 * 9 * PARTS // 100, "cross_zone": PARTS // 100}
    assert {k.workload for k in found} == {"web"}


def test_kubecosts_labels() -> None:
    ledger = make(SeriesOptions(kubecost=True), series=4)
    turn(
        ledger,
        flow(sent=100, received=50),
        flow("10.99.1.1", 200),
        flow("10.99.1.2", 400),
        flow("203.0.113.5", 800),
        *(flow("203.0.113.5", 800, port=port) for port in range(1, 24)),
    )
    labels, values = ledger.view()[KUBECOST]
    outside = ("true", "false", "false")
    found = dict(zip(labels, values[:, 0].tolist(), strict=True))
    assert {k.pod_name for k in found} == {"web-0"}
    by_place: dict[tuple[str, ...], int] = {}
    for each, moved in found.items():
        place = (each.internet, each.same_region, each.same_zone)
        by_place[place] = by_place.get(place, 0) + moved
    assert by_place == {
        outside: 100 + 24 * 800,
        ("false", "true", "false"): 200,
        ("false", "true", "true"): 400,
    }


def test_kubecosts_service_is_the_declared_network() -> None:
    ledger = make(SeriesOptions(kubecost=True))
    turn(ledger, flow("203.0.113.5", 800))
    (labels,) = ledger.view()[KUBECOST].labels
    assert labels == KubecostLabels("web-0", "shop", "true", "false", "false", "office")


@pytest.mark.parametrize("scope", ["node", "zone", "cluster", "private", "unknown"])
def test_kubecost_charges_nothing_where_nothing_is_known(scope: str) -> None:
    account = Account(
        0, "shop", "web", "Deployment", "pod", "shop", "db", scope, 6, 80, endpoint="web-0"
    )
    labels = kubecost_labels(account)
    assert labels is not None
    assert labels[2:5] == ("false", "true", "true")


def test_pods_in_the_place_of_workloads() -> None:
    ledger = make(SeriesOptions(by_pod=True))
    turn(ledger, flow("10.99.1.1", 23), flow("203.0.113.5", 29))
    shown = {
        (each.workload, each.workload_kind, each.peer_workload)
        for each in ledger.view()[FLOWS].labels
    }
    assert shown == {("web-0", "Pod", "db-1"), ("web-0", "Pod", "office")}

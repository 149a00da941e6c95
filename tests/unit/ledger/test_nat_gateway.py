# SPDX-License-Identifier: Apache-2.0
"""What passes a NAT gateway: which traffic is marked, what it costs, and the labels of OpenCost."""

from pathlib import Path

import pytest

from podtally import config
from podtally.errors import PodtallyError
from podtally.identity.cluster_labels import ClusterLabels
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.costs import PARTS, NatPrices, SeriesOptions
from podtally.ledger.metrics.families import KUBECOST, KUBECOST_INGRESS
from podtally.ledger.peers.nat_rules import NatRules, nat_rules
from podtally.ledger.series.label_sets import CostLabels
from podtally.runtime.extras import Extras
from tests.unit.ledger.test_costs import dollars, flow, make, world
from tests.unit.rows import SECOND, Flow, book

EVERYTHING = nat_rules({}, (), (), ())
PRIVATE = ("topology.example.org/subnet", "private")


def options(rules: NatRules | None) -> SeriesOptions:
    return SeriesOptions(
        egress={"internet": 900}, kubecost=True, nat=NatPrices(450, 450), nat_rules=rules
    )


def context(now_ns: int = SECOND, *labels: tuple[str, str]) -> EpochContext:
    known = ClusterLabels("n1", {}, {"n1": labels}, known=True)
    return EpochContext(world(), now_ns, cluster_labels=known)


def counted(
    rules: NatRules | None, *flows: Flow, labels: tuple[tuple[str, str], ...] = ()
) -> Ledger:
    ledger, where = make(options(rules)), context(SECOND, *labels)
    book(ledger, where, flows)
    ledger.settle(where, [])
    return ledger


def behind(ledger: Ledger) -> int:
    """Bytes that were sent through the gateway."""
    labels, values = ledger.view()[KUBECOST]
    return sum(
        moved
        for each, moved in zip(labels, values[:, 0].tolist(), strict=True)
        if each.nat_gateway == "true"
    )


def test_the_gateway_is_priced_apart_and_both_ways() -> None:
    near = flow("10.99.1.1", 10**9)
    ledger = counted(EVERYTHING, flow(sent=2 * 10**9, received=10**9), near)
    assert dollars(ledger) == {
        CostLabels("shop", "web", "internet", "egress"): 18 * PARTS // 100,
        CostLabels("shop", "web", "nat_gateway", "egress"): 9 * PARTS // 100,
        CostLabels("shop", "web", "nat_gateway", "ingress"): 45 * PARTS // 1000,
    }
    assert behind(ledger) == 2 * 10**9


def test_opencost_gets_both_directions_with_the_gateway_as_a_label() -> None:
    ledger = counted(
        nat_rules({}, (), (), ("203.0.113.0/24",)),
        flow(sent=100, received=50),
        flow("203.0.113.5", 800, 7),
    )
    for family, (passed, other) in ((KUBECOST, (100, 800)), (KUBECOST_INGRESS, (50, 7))):
        labels, values = ledger.view()[family]
        found = {each: moved for each, moved in zip(labels, values[:, 0].tolist(), strict=True)}
        by_gateway = {each.nat_gateway: moved for each, moved in found.items()}
        assert by_gateway == {"true": passed, "false": other}
        assert {(each.internet, each.same_zone) for each in found} == {("true", "false")}


@pytest.mark.parametrize(
    ("rules", "labels", "passed"),
    [
        (None, (), 0),
        (EVERYTHING, (), 1111),
        (nat_rules(dict([PRIVATE]), (), (), ()), (PRIVATE,), 1111),
        (nat_rules(dict([PRIVATE]), (), (), ()), (), 0),
        (nat_rules(dict([PRIVATE]), (), (), ()), ((PRIVATE[0], "public"),), 0),
        (nat_rules({}, ("10.99.0.0/24",), (), ()), (), 1111),
        (nat_rules({}, ("10.98.0.0/16",), (), ()), (), 0),
        (nat_rules(dict([PRIVATE]), ("10.98.0.0/16",), (), ()), (PRIVATE,), 1111),
        (nat_rules(dict([PRIVATE]), ("10.99.0.0/24",), (), ()), (), 1111),
        (nat_rules({}, (), ("198.18.0.0/15",), ()), (), 1011),
        (nat_rules({}, (), ("198.18.0.0/15",), ("198.18.7.8/32",)), (), 1001),
        (nat_rules({}, (), ("198.18.7.8",), ("198.18.0.0/15",)), (), 10),
        (nat_rules({}, (), (), ("0.0.0.0/0",)), (), 0),
        (nat_rules({}, (), ("2001:db8::/32",), ()), (), 0),
    ],
)
def test_what_passes_is_configured(
    rules: NatRules | None, labels: tuple[tuple[str, str], ...], passed: int
) -> None:
    flows = (
        flow("198.18.7.7", 1, port=1), flow("198.18.7.8", 10, port=2), flow("203.0.113.5", 100, port=3),
        flow("198.18.7.9", 1000, port=4), flow("10.99.1.1", 10_000, port=5),
    )  # fmt: skip
    assert behind(counted(rules, *flows, labels=labels)) == passed


def test_the_mark_outlives_a_restart(tmp_path: Path) -> None:
    first, checkpoint = counted(EVERYTHING, flow(sent=100)), Checkpoint(tmp_path)
    checkpoint.write(Position("boot", "generation", 1), first.save() | Extras().save())
    read, again = checkpoint.read(), make(options(EVERYTHING))
    assert read is not None
    again.load(read[1], SECOND)
    book(again, context(2 * SECOND), [flow(sent=23)], 2 * SECOND)
    again.settle(context(2 * SECOND), [])
    assert behind(again) == 123


def test_the_sums_by_flow_are_as_without() -> None:
    flows = [flow(f"198.18.7.{host}", 1000, 10, port) for host in (7, 8) for port in range(1, 24)]
    marked = counted(nat_rules({}, (), ("198.18.7.7",), ()), *flows)
    plain = counted(None, *flows)
    for family in ("flows", "pods"):
        one, other = marked.view().series[family], plain.view().series[family]
        assert dict(zip(one.labels, one.values.tolist(), strict=True)) == dict(
            zip(other.labels, other.values.tolist(), strict=True)
        )


def test_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text(
        "nat_gateway: {node_labels: {a: b}, subnets: [10.0.128.0/17], exclude: [203.0.113.0/24]}\n"
        "prices: {egress: {internet: 0.09}, nat_gateway: {egress: 0.045, ingress: 0.045}}\n"
    )
    read = config.load(path, {})
    assert read.nat_gateway is not None
    assert (read.nat_gateway.node_labels, read.nat_gateway.subnets) == (
        {"a": "b"},
        ["10.0.128.0/17"],
    )
    assert read.prices.nat_gateway == {"egress": 0.045, "ingress": 0.045}
    for text, words in (
        ("nat_gateway: {subnets: [10.0.0.1/8]}", "subnets: 10.0.0.1/8 has host bits set"),
        ("nat_gateway: {subnet: [10.0.0.0/8]}", "unknown field 'subnet'"),
        ("prices: {nat_gateway: {internet: 1}}", "internet"),
    ):
        path.write_text(text)
        with pytest.raises(PodtallyError, match=words):
            config.load(path, {})

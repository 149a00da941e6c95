# SPDX-License-Identifier: Apache-2.0
"""Accounts: what connections that differ in no label share."""

import numpy as np
import pytest

from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.connections.account import (
    NO_PORT,
    UNKNOWN_PORT,
    Account,
    Judgement,
    candidate_labels,
    denied_labels,
    exposed_labels,
    flow_labels,
    overflow_account,
    server_port,
    with_any_peer,
)
from podtally.ledger.connections.connections import (
    INITIATOR_ENDPOINT,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
)
from podtally.ledger.metrics.families import FLOWS
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.label_sets import FlowLabels
from podtally.ledger.series.series import SeriesTable


def account(port: int = 443, slot: int = 0, protocol: int = 6) -> Account:
    web = ("shop", "web", "Deployment")
    return Account(slot, *web, "external", "", "office", "internet", protocol, port)


def make(limit: int = 1000) -> tuple[AccountTable, SeriesTable[FlowLabels]]:
    tables = Tables()
    return AccountTable(tables, limit), tables[FLOWS]


@pytest.mark.parametrize(
    ("initiator", "port"),
    [(INITIATOR_ENDPOINT, 443), (INITIATOR_PEER, 40123), (INITIATOR_UNKNOWN, UNKNOWN_PORT)],
)
def test_the_servers_port(initiator: int, port: int) -> None:
    local, remote = np.array([40123], np.uint16), np.array([443], np.uint16)
    assert server_port(np.array([initiator], np.uint8), local, remote).tolist() == [port]


@pytest.mark.parametrize(
    ("port", "protocol", "text", "name"),
    [
        (443, 6, "443", "tcp"),
        (NO_PORT, 1, "0", "icmp"),
        (UNKNOWN_PORT, 17, "unknown", "udp"),
        (65535, 132, "65535", "sctp"),
        (NO_PORT, 253, "0", "253"),
    ],
)
def test_labels(port: int, protocol: int, text: str, name: str) -> None:
    labels = flow_labels(account(port, protocol=protocol), "egress")
    assert (labels.port, labels.protocol, labels.direction) == (text, name, "egress")
    assert (labels.workload, labels.peer_workload, labels.verdict) == ("web", "office", "unknown")


def test_beyond_the_limit_every_label_but_the_direction_is_other() -> None:
    labels = flow_labels(overflow_account(account(slot=5)), "ingress")
    assert set(labels._replace(direction="other")) == {"other"}
    assert labels.direction == "ingress"


def test_beyond_the_limit_the_rarer_series_say_other_too() -> None:
    judgement = Judgement("denied", "egress", "shop/strict", exposed=True, candidate="allowed")
    judged = account()._replace(judgement=judgement)
    limited = overflow_account(judged)
    for labels in (denied_labels(limited), exposed_labels(limited), candidate_labels(limited)):
        assert labels is not None
        assert (labels.namespace, labels.workload) == ("other", "other")
        assert (labels.protocol, labels.port) == ("other", "other")


def test_an_account_has_a_series_each_way() -> None:
    accounts, flows = make()
    index = accounts.index_of(account(), 1)
    assert accounts.index_of(account(), 2) == index
    egress, ingress = accounts.series[index].tolist()
    assert flows.find(flow_labels(account(), "egress")) == egress
    assert flows.find(flow_labels(account(), "ingress")) == ingress


def test_two_interfaces_share_series_and_not_accounts() -> None:
    accounts, flows = make()
    one, two = accounts.index_of(account(slot=0), 1), accounts.index_of(account(slot=1), 1)
    assert one != two
    assert accounts.slot[[one, two]].tolist() == [0, 1]
    assert accounts.series[one].tolist() == accounts.series[two].tolist()
    assert len(flows) == 2


def of(endpoint: str, slot: int, port: int = 443, peer: str = "office") -> Account:
    made = account(port, slot)._replace(workload=endpoint, peer_workload=peer)
    return made._replace(endpoint=f"{endpoint}-0", endpoint_namespace="shop")


def test_more_ports_of_a_peer_than_are_shown_are_one() -> None:
    accounts, flows = make(limit=10_000)
    indexes = [accounts.index_of(account(port), 1) for port in range(1, 12_033)]
    assert len(flows) == 2 * (accounts.shares.by_peer + 1)
    assert len(set(indexes[accounts.shares.by_peer :])) == 1
    assert accounts.index_of(account(3), 1) == indexes[2]  # those that are there stay
    labels = flows.labels_at(int(accounts.series[indexes[-1], 0]))
    expected = flow_labels(account(), "egress")._replace(port="other")
    assert labels == expected  # but for the port all is exact
    assert accounts.limited == 12_032 - accounts.shares.by_peer


def test_more_peers_than_an_endpoint_may_have_are_one_and_its_name_stays() -> None:
    accounts, flows = make(limit=80)
    judged = Judgement("denied", "egress", "shop/strict")
    made = [of("web", 0, peer=f"w{n}")._replace(judgement=judged) for n in range(23)]
    indexes = [accounts.index_of(each, 1) for each in made]
    assert accounts.shares.most == 10
    assert len(set(indexes[10:])) == 1
    labels = flows.labels_at(int(accounts.series[indexes[-1], 0]))
    assert labels is not None
    assert (labels.namespace, labels.workload, labels.workload_kind) == (
        "shop",
        "web",
        "Deployment",
    )
    assert (labels.verdict, labels.scope, labels.protocol) == ("denied", "internet", "tcp")
    assert set(labels[4:7]) == {labels.port} == {"other"}
    denied = denied_labels(with_any_peer(made[0]))
    assert denied is not None
    assert (denied.workload, denied.policy, denied.peer_workload) == ("web", "shop/strict", "other")


def test_what_one_endpoint_takes_costs_no_other_its_series() -> None:
    """Eight endpoints together take more than the limit; a ninth still has series of its own."""
    accounts, flows = make(limit=160)
    for slot in range(8):
        for number in range(100):
            accounts.index_of(of(f"greedy{slot}", slot, peer=f"w{number}"), 1)
    victim = [of("victim", 8, port) for port in range(1, 6)]
    indexes = [accounts.index_of(each, 1) for each in victim]
    assert [accounts.at(np.array([i]))[i] for i in indexes] == victim
    assert len(flows) <= 2 * 160  # whatever is guaranteed


def test_protocols_that_few_use_are_one_where_peers_are() -> None:
    accounts, flows = make(limit=80)
    for protocol in range(256):
        for peer in range(11):
            made = of("web", 0, port=0, peer=f"w{peer}")._replace(protocol=protocol)
            accounts.index_of(made, 1)
    labels = [labels for _, labels in flows.pairs() if labels.peer_kind == "other"]
    assert {each.protocol for each in labels} <= {"other", "icmp", "tcp", "udp", "icmpv6", "sctp"}


def test_series_that_are_there_are_shared_beyond_any_limit() -> None:
    accounts, flows = make(limit=80)
    for number in range(20):
        accounts.index_of(of("web", 0, peer=f"w{number}"), 1)
    size = len(flows)
    index = accounts.index_of(of("web", 1, peer="w3"), 1)  # another pod of the workload
    assert flows.labels_at(int(accounts.series[index, 0])).peer_workload == "w3"  # type: ignore[union-attr]
    assert len(flows) == size


def test_beyond_all_guarantees_even_the_workload_is_other() -> None:
    accounts, flows = make(limit=40)
    for slot in range(100):
        accounts.index_of(of(f"w{slot}", slot), 1)
    assert len(flows) <= 2 * 40 + 2
    assert any(labels.namespace == "other" for _, labels in flows.pairs())


def test_a_closed_account_gives_its_share_back() -> None:
    accounts, _ = make(limit=80)
    for _ in range(3):
        made = [of("web", 0, peer=f"w{number}") for number in range(10)]
        indexes = [accounts.index_of(each, 1) for each in made]
        assert len(set(indexes)) == 10
        assert accounts.shares.full()
        accounts.close(0)
        assert not accounts.shares.full()


def test_a_closed_account_is_free_and_its_series_stay() -> None:
    accounts, flows = make()
    closed = [accounts.index_of(account(port), 1) for port in range(11)]
    kept = accounts.index_of(account(slot=1), 1)
    closed += [accounts.index_of(account(port), 1) for port in range(11, 23)]
    accounts.close(0)
    assert len(flows) == 2 * 24
    assert accounts.at(np.array([kept, *closed])) == {kept: account(slot=1)}
    assert set(accounts.series_in_use().tolist()) == set(accounts.series[kept].tolist())
    again = [accounts.index_of(account(port, slot=2), 1) for port in range(23)]
    assert set(again) == set(closed)
    assert kept not in again


def test_restored_accounts_keep_their_indexes() -> None:
    accounts, flows = make()
    for port in range(37):
        accounts.index_of(account(port, slot=port % 2), 1)
    accounts.close(0)
    again, flows_again = make()
    flows_again.restore(flows.pairs(), *flows.sums())
    again.restore(accounts.pairs(), 2)
    for port in range(1, 37, 2):
        index = accounts.index_of(account(port, slot=1), 2)
        assert again.index_of(account(port, slot=1), 2) == index
        assert again.slot[index] == 1
        assert again.series[index].tolist() == accounts.series[index].tolist()
    fresh = {again.index_of(account(port, slot=3), 3) for port in range(100, 130)}
    assert len(fresh) == 30
    assert not fresh & {again.index_of(account(port, slot=1), 3) for port in range(1, 37, 2)}

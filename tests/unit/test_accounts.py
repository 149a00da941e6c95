"""Accounts: what connections that differ in no label share."""

import numpy as np
import pytest

from podtally.ledger.account import (
    NO_PORT,
    UNKNOWN_PORT,
    Account,
    Judgement,
    beyond_the_limit,
    candidate_labels,
    denied_labels,
    exposed_labels,
    flow_labels,
    server_port,
)
from podtally.ledger.accounts import Accounts, make_tables
from podtally.ledger.connections import BEGAN_HERE, BEGAN_THERE, BEGAN_UNKNOWN
from podtally.ledger.labels import FlowLabels
from podtally.ledger.series import SeriesTable


def account(port: int = 443, slot: int = 0, protocol: int = 6) -> Account:
    web = ("shop", "web", "Deployment")
    return Account(slot, *web, "external", "", "office", "internet", protocol, port)


def make(limit: int = 1000) -> tuple[Accounts, SeriesTable[FlowLabels]]:
    flows: SeriesTable[FlowLabels] = SeriesTable(3)
    return Accounts(make_tables()._replace(flows=flows), limit), flows


@pytest.mark.parametrize(
    ("began", "port"), [(BEGAN_HERE, 443), (BEGAN_THERE, 40123), (BEGAN_UNKNOWN, UNKNOWN_PORT)]
)
def test_the_servers_port(began: int, port: int) -> None:
    local, remote = np.array([40123], np.uint16), np.array([443], np.uint16)
    assert server_port(np.array([began], np.uint8), local, remote).tolist() == [port]


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
    labels = flow_labels(beyond_the_limit(account(slot=5)), "ingress")
    assert set(labels._replace(direction="other")) == {"other"}
    assert labels.direction == "ingress"


def test_beyond_the_limit_the_rarer_series_say_other_too() -> None:
    judged = account()._replace(judgement=Judgement("denied", "egress", "shop/strict"))
    limited = beyond_the_limit(judged)
    for labels in (denied_labels(limited), exposed_labels(limited), candidate_labels(limited)):
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


def test_what_does_not_fit_the_limit_is_other_and_counted() -> None:
    accounts, flows = make(limit=9)
    indexes = [accounts.index_of(account(port), 1) for port in range(23)]
    assert len(flows) == 8 + 2  # four accounts, and `other`
    assert accounts.limited == 19
    assert len(set(indexes[4:])) == 1
    assert accounts.index_of(account(3), 1) == indexes[3]  # those that are there stay
    other = accounts.index_of(account(99, slot=1), 1)
    assert other != indexes[4]
    assert accounts.slot[other] == 1
    assert len(flows) == 10


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
    flows_again: SeriesTable[FlowLabels] = SeriesTable(3)
    flows_again.restore(flows.pairs(), *flows.sums())
    again = Accounts(make_tables()._replace(flows=flows_again), 1000)
    again.restore(accounts.pairs(), 2)
    for port in range(1, 37, 2):
        index = accounts.index_of(account(port, slot=1), 2)
        assert again.index_of(account(port, slot=1), 2) == index
        assert again.slot[index] == 1
        assert again.series[index].tolist() == accounts.series[index].tolist()
    fresh = {again.index_of(account(port, slot=3), 3) for port in range(100, 130)}
    assert len(fresh) == 30
    assert not fresh & {again.index_of(account(port, slot=1), 3) for port in range(1, 37, 2)}

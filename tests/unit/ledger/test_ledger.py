# SPDX-License-Identifier: Apache-2.0
"""The ledger: rows and accounts in, sums under the contract's labels out."""

import numpy as np
import pytest

from podtally.ledger.interfaces.balance import Losses
from podtally.ledger.metrics.families import BOOKS, DROPS_BYTES, FLOWS, PODS
from podtally.ledger.series.label_sets import BookLabels, FlowLabels, PodLabels
from tests.unit.ledger.ledger_support import booked, contents, flows_of, turn, watched
from tests.unit.rows import (
    ACK,
    FIN,
    ICMP,
    RST,
    SECOND,
    SHOP,
    SYN,
    UDP,
    Flow,
    book,
    from_here,
    gaps,
    make_ledger,
    names,
    to_here,
)

GRACE = 300 * SECOND


@pytest.mark.parametrize(
    ("what", "flow", "protocol", "port"),
    [
        ("a client", Flow(seen=from_here(SYN)), "tcp", "443"),
        ("a server", Flow(seen=to_here(SYN), local_port=80, remote_port=51001), "tcp", "80"),
        ("caught amid", Flow(seen=from_here(ACK) | to_here(ACK)), "tcp", "unknown"),
        ("a question", Flow(protocol=UDP, remote_port=53), "udp", "53"),
        ("an answer first", Flow(protocol=UDP, local_port=53, first_direction=1), "udp", "53"),
        ("a ping", Flow(protocol=ICMP, local_port=0, remote_port=0), "icmp", "0"),
        ("a fragment", Flow(protocol=UDP, local_port=0, remote_port=0), "udp", "0"),
        ("no name", Flow(protocol=253, local_port=0, remote_port=0), "253", "0"),
    ],
)
def test_the_port_is_the_servers(what: str, flow: Flow, protocol: str, port: str) -> None:
    ledger = watched(7)
    turn(ledger, [flow])
    labels = {(each.protocol, each.port) for each in ledger.view()[FLOWS].labels}
    assert labels == {(protocol, port)}, what


def test_labels_name_both_ends() -> None:
    ledger = watched(7)
    turn(ledger, [Flow(bytes=(23, 29), packets=(1, 2), seen=from_here(SYN))])
    web = ("shop", "web", "Deployment")
    rest = ("external", "", "office", "internet", "tcp", "443", "undeclared")
    assert contents(ledger.view()[FLOWS]) == {
        FlowLabels(*web, "egress", *rest): [23, 1, 1],
        FlowLabels(*web, "ingress", *rest): [29, 2, 0],
    }
    assert contents(ledger.view()[PODS]) == {
        PodLabels("shop", "web-0", "egress"): [23, 1],
        PodLabels("shop", "web-0", "ingress"): [29, 2],
    }
    assert contents(ledger.view()[BOOKS]) == {
        BookLabels("veth7", "egress"): [23, 0, 0],
        BookLabels("veth7", "ingress"): [29, 0, 0],
    }


def test_connections_are_counted_when_they_begin_on_the_side_that_began_them() -> None:
    ledger = watched(7)
    there = Flow(seen=to_here(SYN), local_port=80, remote_port=51001)
    for _ in range(3):
        turn(ledger, [Flow(seen=from_here(SYN)), there, Flow(remote_port=99)])
    counted = {(k.direction, k.port): v[2] for k, v in contents(ledger.view()[FLOWS]).items()}
    assert counted == {
        ("egress", "443"): 1,
        ("ingress", "443"): 0,
        ("egress", "80"): 0,
        ("ingress", "80"): 1,
        ("egress", "unknown"): 0,
        ("ingress", "unknown"): 0,
    }
    assert ledger.view().unknown_initiators == 1
    assert ledger.view().connections == 3


def test_connections_of_many_batches_are_summed() -> None:
    ledger = watched(7)
    flows = [Flow(local_port=1000 + i, bytes=(i, 0), seen=from_here(SYN)) for i in range(1009)]
    for batch in (flows[:500], flows[500:]):
        book(ledger, names(), batch)
    turn(ledger)
    ((_, sums),) = flows_of(ledger).items()
    assert sums == [sum(range(1009)), 1009, 1009]


def test_ports_used_again_are_another_connection() -> None:
    ledger = watched(7)
    whole = from_here(SYN) | to_here(SYN | ACK) | from_here(FIN) | to_here(FIN)
    turn(ledger, [Flow(seen=whole, bytes=(101, 103))])
    ended = turn(ledger, [Flow(seen=whole, bytes=(23, 29))], now_ns=2 * SECOND)
    assert [each.columns.bytes.tolist() for each in ended] == [[[101, 103]]]
    assert list(flows_of(ledger).values()) == [[124, 2, 2]]
    ended = turn(ledger, now_ns=9 * SECOND)
    assert [each.columns.bytes.tolist() for each in ended] == [[[23, 29]]]
    assert ended[0].columns.initiator.tolist() == [1]


def test_an_end_without_a_new_beginning_is_the_same_connection() -> None:
    ledger = watched(7)
    turn(ledger, [Flow(seen=from_here(SYN | RST), bytes=(23, 0))])
    assert turn(ledger, [Flow(seen=to_here(ACK), bytes=(0, 29))]) == []
    assert ledger.connections.columns.bytes.tolist() == [[23, 29]]
    assert [v[2] for v in flows_of(ledger).values()] == [1]


def test_beyond_the_limit_flows_are_other_and_sums_stay_exact() -> None:
    ledger = make_ledger(series=40)
    flows = [Flow(remote_port=1000 + i, bytes=(i, 2 * i), seen=from_here(SYN)) for i in range(23)]
    for _ in range(3):
        turn(ledger, flows)
    view = ledger.view()
    assert len(view[FLOWS].labels) == 2 * (5 + 1)
    web = ["shop", "web", "Deployment", "egress", *["other"] * 3, "internet", "tcp", "other"]
    other = FlowLabels._make([*web, "undeclared", "other"])
    assert contents(view[FLOWS])[other] == [3 * sum(range(5, 23)), 3 * 18, 18]
    assert view[FLOWS].values[:, 0].sum() == 9 * sum(range(23))
    assert view[BOOKS].values[:, 0].sum() == 9 * sum(range(23))
    assert view.limited > 0


def test_a_scan_costs_a_bounded_number_of_series_and_no_neighbour_its_own() -> None:
    """12,000 ports on 200 addresses in one epoch; the neighbour's connection comes after it."""
    ledger = make_ledger()
    scan = [
        Flow(f"198.18.{i % 200}.1", UDP, remote_port=1 + i, bytes=(29, 0)) for i in range(12_000)
    ]
    turn(ledger, scan)
    turn(ledger, [Flow("198.18.7.2", ifindex=9, remote_port=4442, seen=from_here(SYN))])
    flows = contents(ledger.view()[FLOWS])
    assert len(flows) < 300
    scanned = [sums for labels, sums in flows.items() if labels.workload == "web"]
    assert sum(sums[0] for sums in scanned) == 12_000 * 29
    assert sum(sums[2] for sums in scanned) == 12_000
    (mine,) = (k for k in flows if k.workload == "db" and k.direction == "egress")
    assert (mine.port, mine.scope) == ("4442", "internet")


def test_a_scan_that_goes_on_while_names_change_takes_no_more_each_time() -> None:
    ledger = make_ledger(series=400)
    for round_ in range(20):
        ports = range(1 + 500 * round_, 501 + 500 * round_)
        scan = [Flow(protocol=UDP, remote_port=port) for port in ports]
        turn(ledger, scan, names(dict(SHOP)), now_ns=SECOND * (1 + round_))
    assert len(ledger.flows) <= 2 * (50 + 8)


def test_long_silent_series_of_the_living_make_room_only_where_it_is_needed() -> None:
    """A scan must not push everything that comes later into `other` for ever."""
    for limit, kept in ((10_000, 2 * 23), (2 * 23, 2), (8 * 23, 2)):  # 184: its own share is used
        ledger = make_ledger(series=limit, grace_ns=5 * SECOND)
        scan = [Flow(remote_port=1000 + i, protocol=UDP, seen=0) for i in range(23)]
        turn(ledger, scan, now_ns=SECOND)
        turn(ledger, [scan[0]], now_ns=400 * SECOND)  # the others end by idleness
        turn(ledger, [scan[0]], now_ns=401 * SECOND)
        ledger.expire(names(), 402 * SECOND)
        assert len(ledger.flows) == kept


def test_bytes_after_a_rename_are_the_new_names() -> None:
    ledger = watched(7, 9)
    flow = Flow(seen=from_here(SYN), bytes=(23, 0))
    turn(ledger, [flow, Flow(ifindex=9, bytes=(5, 0))], names({}))
    ledger.rename([7, 23])
    later = flow._replace(seen=0, bytes=(29, 0))
    turn(ledger, [later, Flow(ifindex=9, bytes=(7, 0))], names({7: SHOP[7]}))
    by_name = {(k.workload, k.port): v for k, v in flows_of(ledger).items()}
    assert by_name == {
        ("unknown", "443"): [23, 1, 1],
        ("unknown", "unknown"): [12, 2, 0],
        ("web", "443"): [29, 1, 0],  # who began it is remembered, and not counted again
    }
    pods = contents(ledger.view()[PODS])
    assert pods[PodLabels("shop", "web-0", "egress")] == [29, 1]
    assert pods[PodLabels("unknown", "unknown", "egress")] == [23 + 5 + 7, 3]


def test_two_interfaces_of_one_pod_are_added_up() -> None:
    ledger = watched(7, 9)
    turn(ledger, [Flow(), Flow(ifindex=9)], names({7: SHOP[7], 9: SHOP[7]}))
    assert contents(ledger.view()[PODS])[PodLabels("shop", "web-0", "egress")] == [46, 2]
    assert contents(ledger.view()[BOOKS])[BookLabels("veth9", "egress")] == [23, 0, 0]


def test_an_interface_detached_and_its_name_used_again_stay_monotone() -> None:
    ledger = watched(7)
    turn(ledger, [Flow(bytes=(101, 0))])
    turn(ledger, [Flow(bytes=(23, 0))], gone=[7])
    assert contents(ledger.view()[BOOKS])[BookLabels("veth7", "egress")] == [124, 0, 0]
    ledger.interfaces.appeared(11, "veth7", (0, 0))
    turn(ledger, [Flow(ifindex=11, bytes=(5, 0))], names({11: SHOP[7]}))
    assert contents(ledger.view()[BOOKS])[BookLabels("veth7", "egress")] == [129, 0, 0]
    assert contents(ledger.view()[PODS])[PodLabels("shop", "web-0", "egress")] == [129, 3]


def test_the_last_epoch_of_an_interface_ends_its_connections_by_name() -> None:
    ledger = watched(7, 9)
    turn(ledger, [Flow(), Flow(ifindex=9)])
    (ended,) = turn(ledger, [Flow(remote_port=99)], gone=[7])
    assert sorted(ended.columns.key["remote_port"].tolist()) == [99, 443]
    assert ended.interfaces == {7: "veth7"}
    assert ended.endpoints[7].name == "web-0"
    assert set(ended.columns.account.tolist()) == set(ended.accounts)
    assert ledger.connections.columns.key["ifindex"].tolist() == [9]


def test_a_connection_of_a_removed_interface_has_no_account() -> None:
    """Its account may be another's by then; an interface must not come back by being named."""
    ledger = watched(7, 9)
    turn(ledger, [Flow(protocol=UDP)])
    ledger.let_go(7)
    turn(ledger, [Flow(ifindex=9, bytes=(5, 0))])
    turn(ledger, [Flow(protocol=UDP, bytes=(29, 0))])  # the number is used again
    books = contents(ledger.view()[BOOKS])
    assert books[BookLabels("veth9", "egress")] == [5, 0, 0]
    assert books[BookLabels("ifindex 7", "egress")] == [29, 0, 0]
    ledger.let_go(7)
    (ended,) = turn(ledger, now_ns=1000 * SECOND)
    assert ended.interfaces == {7: "ifindex 7"}
    assert not ledger.interfaces.known(7)


def test_series_go_after_the_grace_and_not_before() -> None:
    ledger = watched(7, 9)
    turn(ledger, [Flow(), Flow(ifindex=9)])
    turn(ledger, gone=[7], now_ns=SECOND)
    ledger.expire(names(), SECOND + GRACE)
    assert PodLabels("shop", "web-0", "egress") in contents(ledger.view()[PODS])
    assert len(ledger.view()[FLOWS].labels) == 4
    ledger.expire(names(), SECOND + GRACE + 1)
    view = ledger.view()
    assert {each.pod for each in view[PODS].labels} == {"db-0"}  # silent, and there
    assert {each.workload for each in view[FLOWS].labels} == {"db"}
    assert {each.interface for each in view[BOOKS].labels} == {"veth9"}
    turn(ledger, [Flow(ifindex=9)], now_ns=2 * GRACE)
    assert contents(ledger.view()[BOOKS])[BookLabels("veth9", "egress")] == [46, 0, 0]


def test_a_gap_is_shown_as_long_as_the_books_series() -> None:
    ledger = watched(7)
    turn(ledger, [Flow(bytes=(23, 0))])
    for _ in range(2):
        ledger.close_books(np.array([7, 99]), np.array([[30, 0], [1, 1]]), SECOND)
    assert dict(gaps(ledger.view()))[BookLabels("veth7", "egress")] == 7
    turn(ledger, gone=[7])
    assert dict(gaps(ledger.view())) == {
        BookLabels("veth7", "egress"): 7,
        BookLabels("veth7", "ingress"): 0,
    }
    ledger.interfaces.appeared(11, "veth7", (0, 0))
    assert dict(gaps(ledger.view())) == {
        BookLabels("veth7", "egress"): 7,
        BookLabels("veth7", "ingress"): 0,
    }
    ledger.let_go(11)
    ledger.expire(names(), SECOND + GRACE + 1)
    assert gaps(ledger.view()) == []
    assert not ledger.interfaces.known(99)


def test_an_interface_that_is_gone_or_renamed_reports_no_gap_of_its_own() -> None:
    """Its series stays for the grace; a reader that finds no gap beside it must not worry."""
    ledger = watched(7, 9)
    turn(ledger, [Flow(bytes=(23, 29)), Flow(ifindex=9)])
    ledger.interfaces.renamed(9, "web")
    turn(ledger, gone=[7])
    view = ledger.view()
    assert {each.interface for each in view[BOOKS].labels} == {"veth7", "veth9", "web"}
    assert dict(gaps(view)) == dict.fromkeys(view[BOOKS].labels, 0)


def test_what_was_dropped_on_its_way_to_a_pod_is_not_received() -> None:
    ledger = watched(7)
    label = PodLabels("shop", "web-0", "ingress")
    counted = np.array([[0, 0]])
    turn(ledger, [Flow(bytes=(0, 126), packets=(0, 3))])
    for _ in range(2):
        ledger.close_books(np.array([7]), counted, SECOND, losses(after=(0, 3)))
    assert [gap for _, gap in gaps(ledger.view())] == [0, 0]
    assert contents(ledger.view()[DROPS_BYTES])[BookLabels("veth7", "ingress")] == [0, 126, 0]
    assert booked(ledger, "veth7", "ingress") == [126, 0, 0]
    turn(ledger, [Flow(bytes=(0, 1000), packets=(0, 10))], now_ns=2 * SECOND)
    ledger.close_books(np.array([7]), np.array([[0, 1000]]), 2 * SECOND, losses(after=(0, 3)))
    assert contents(ledger.view()[PODS])[label] == [1000, 13]
    turn(ledger, gone=[7])
    assert not ledger.interfaces.known(7)  # nothing is pending on it


def losses(after: tuple[int, int]) -> Losses:
    nothing = np.zeros((1, 2), np.int64)
    return Losses(nothing, np.array([after]), nothing, nothing, np.array([65558]))

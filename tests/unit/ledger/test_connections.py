# SPDX-License-Identifier: Apache-2.0
"""Connections under way: who opened them, when they end, and how they are found."""

import numpy as np
import pytest

from podtally.ledger.connections.connections import (
    CONTESTED,
    INITIATOR_ENDPOINT,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
    Connections,
    Timeouts,
    has_ended,
)
from podtally.ledger.connections.initiator import initiator_of
from tests.unit.rows import (
    ACK,
    FIN,
    FLAGS,
    RST,
    SECOND,
    SYN,
    TCP,
    UDP,
    Flow,
    columns,
    from_here,
    key_of,
    to_here,
)

NO_INTERFACE = np.zeros(0, np.int64)
SYN_ACK = SYN | ACK


def flows(count: int) -> list[Flow]:
    made = [Flow(local_port=1000 + i) for i in range(count)]
    return sorted(made, key=lambda flow: flow.fingerprint)


def fill(connections: Connections, rows: list[Flow], now_ns: int = SECOND) -> None:
    connections.begin(columns(rows, now_ns=now_ns))
    connections.settle(now_ns, NO_INTERFACE)


@pytest.mark.parametrize(
    ("seen", "initiator"),
    [
        (0, INITIATOR_UNKNOWN),
        (from_here(ACK) | to_here(ACK), INITIATOR_UNKNOWN),
        (from_here(SYN), INITIATOR_ENDPOINT),
        (to_here(SYN), INITIATOR_PEER),
        # an answer to no request, refused or ignored by its receiver
        (to_here(SYN_ACK), INITIATOR_UNKNOWN),
        (to_here(SYN_ACK) | from_here(RST), INITIATOR_UNKNOWN),
        (from_here(SYN_ACK), INITIATOR_UNKNOWN),
        # the SYN was missed, later packets were not
        (to_here(SYN_ACK) | from_here(ACK), INITIATOR_ENDPOINT),
        (from_here(SYN_ACK) | to_here(ACK), INITIATOR_PEER),
        (from_here(SYN) | to_here(SYN_ACK), INITIATOR_ENDPOINT),
        (from_here(SYN) | to_here(SYN_ACK) | from_here(ACK), INITIATOR_ENDPOINT),
        (to_here(SYN) | from_here(SYN_ACK) | to_here(ACK), INITIATOR_PEER),
        # a simultaneous open (RFC 9293 3.5), or a forged frame; the answer shows which is likelier
        (from_here(SYN) | to_here(SYN), CONTESTED),
        (
            from_here(SYN) | to_here(SYN) | to_here(SYN_ACK) | from_here(ACK),
            CONTESTED | INITIATOR_ENDPOINT,
        ),
        (
            from_here(SYN) | to_here(SYN) | from_here(SYN_ACK) | to_here(ACK),
            CONTESTED | INITIATOR_PEER,
        ),
        (from_here(SYN) | from_here(SYN_ACK), INITIATOR_ENDPOINT),
        (
            from_here(SYN) | from_here(SYN_ACK) | to_here(SYN_ACK),
            CONTESTED | INITIATOR_ENDPOINT,
        ),
        # an opening of ours would have passed our hook: the SYN/ACK from outside proves none
        (to_here(SYN) | from_here(SYN_ACK) | to_here(SYN_ACK), INITIATOR_PEER),
        (to_here(SYN) | to_here(SYN_ACK) | from_here(SYN_ACK | ACK), INITIATOR_PEER),
    ],
)
def test_initiator_of_tcp(seen: int, initiator: int) -> None:
    for first_direction in (0, 1):  # says nothing about TCP
        row = Flow(first_direction=first_direction)
        assert initiator_of(np.array([seen], np.uint64), key_of([row]), FLAGS).tolist() == [
            initiator
        ]


@pytest.mark.parametrize(
    ("first_direction", "initiator"), [(0, INITIATOR_ENDPOINT), (1, INITIATOR_PEER)]
)
@pytest.mark.parametrize(
    "seen",
    [
        from_here(SYN) | to_here(SYN) | from_here(SYN_ACK) | to_here(SYN_ACK),
        from_here(SYN | ACK) | to_here(SYN_ACK),
    ],
)
def test_where_both_sides_accepted_the_first_sender_is_likelier(
    seen: int, first_direction: int, initiator: int
) -> None:
    row = key_of([Flow(first_direction=first_direction)])
    found = initiator_of(np.array([seen], np.uint64), row, FLAGS)
    assert found.tolist() == [CONTESTED | initiator]


@pytest.mark.parametrize(
    ("first_direction", "initiator"), [(0, INITIATOR_ENDPOINT), (1, INITIATOR_PEER)]
)
@pytest.mark.parametrize("protocol", [1, UDP, 58, 132])
def test_initiator_of_a_connection_without_a_syn(
    protocol: int, first_direction: int, initiator: int
) -> None:
    row = Flow(protocol=protocol, first_direction=first_direction)
    assert initiator_of(np.zeros(1, np.uint64), key_of([row]), FLAGS).tolist() == [initiator]


@pytest.mark.parametrize(
    ("seen", "over"),
    [
        (from_here(FIN | ACK), False),
        (to_here(FIN | ACK), False),
        (from_here(FIN) | to_here(FIN), True),
        (from_here(RST), True),
        (to_here(RST | ACK), True),
        (from_here(SYN) | to_here(SYN_ACK), False),
    ],
)
def test_end(seen: int, over: bool) -> None:
    assert has_ended(np.array([seen], np.uint64), FLAGS).tolist() == [over]


@pytest.mark.parametrize(
    ("what", "row", "idle_ns"),
    [
        ("two FINs", Flow(seen=from_here(FIN) | to_here(FIN)), Timeouts().ended),
        ("a RST", Flow(seen=to_here(RST)), Timeouts().ended),
        ("UDP", Flow(protocol=UDP), Timeouts().other),
        ("TCP", Flow(seen=from_here(ACK)), Timeouts().tcp),
    ],
)
def test_over_after_its_patience_and_not_before(what: str, row: Flow, idle_ns: int) -> None:
    connections = Connections(FLAGS, 23)
    fill(connections, [row])
    assert len(connections.settle(SECOND + idle_ns, NO_INTERFACE).fingerprint) == 0, what
    ended = connections.settle(SECOND + idle_ns + 1, NO_INTERFACE)
    assert ended.fingerprint.tolist() == [row.fingerprint], what
    assert ended.bytes.tolist() == [[23, 0]]
    assert len(connections) == 0


def test_a_packet_keeps_it_alive() -> None:
    connections = Connections(FLAGS, 23)
    fill(connections, [Flow(protocol=UDP)])
    more = (np.array([[5, 7]]), np.array([[1, 2]]))
    later = SECOND + Timeouts().other
    connections.add_to(np.array([0]), more, np.zeros(1, np.uint64), later)
    assert len(connections.settle(later + Timeouts().other, NO_INTERFACE).fingerprint) == 0
    assert connections.columns.bytes.tolist() == [[28, 7]]
    assert connections.columns.packets.tolist() == [[2, 2]]


def test_a_syn_reuses_only_ports_of_ended_connections() -> None:
    connections = Connections(FLAGS, 23)
    rows = flows(3)
    rows = [
        rows[0]._replace(seen=from_here(FIN) | to_here(FIN)),
        rows[1]._replace(seen=from_here(RST)),
        rows[2]._replace(seen=from_here(SYN)),
    ]
    fill(connections, rows)
    everywhere = np.arange(3)
    for seen, reborn in [
        (from_here(SYN), [True, True, False]),
        (to_here(SYN), [True, True, False]),
        (from_here(SYN_ACK), [False, False, False]),
        (from_here(ACK), [False, False, False]),
    ]:
        again = connections.reused(everywhere, np.full(3, seen, np.uint64))
        assert again.tolist() == reborn


def test_replace_hands_out_what_was_there() -> None:
    connections = Connections(FLAGS, 23)
    rows = flows(5)
    fill(connections, rows)
    fresh = columns([rows[2]._replace(bytes=(101, 103))])
    ended = connections.replace(np.array([2]), fresh)
    assert ended.bytes.tolist() == [[23, 0]]
    assert connections.columns.bytes[:, 0].tolist() == [23, 23, 101, 23, 23]


def test_beyond_the_limit_the_longest_idle_go() -> None:
    connections = Connections(FLAGS, 5)
    rows = flows(23)
    for i, row in enumerate(rows):
        connections.begin(columns([row], now_ns=SECOND + i))
    ended = connections.settle(SECOND + 23, NO_INTERFACE)
    assert sorted(ended.last_ns.tolist()) == [SECOND + i for i in range(18)]
    assert sorted(connections.columns.last_ns.tolist()) == [SECOND + i for i in range(18, 23)]


def test_beyond_the_limit_only_the_interface_with_most_loses() -> None:
    """A flood of one pod is younger than the idle connections of the others."""
    connections = Connections(FLAGS, 50)
    quiet = [Flow(ifindex=9, local_port=1 + i, seen=from_here(ACK)) for i in range(20)]
    fill(connections, quiet)
    for epoch in range(2, 6):
        flood = [Flow(ifindex=7, remote_port=1000 * epoch + i) for i in range(100)]
        fill(connections, flood, now_ns=epoch * SECOND)
    connections.settle(6 * SECOND, NO_INTERFACE)
    ifindex = connections.columns.key["ifindex"].tolist()
    assert (ifindex.count(9), ifindex.count(7)) == (20, 30)
    assert set(connections.columns.last_ns[np.array(ifindex) == 7].tolist()) == {5 * SECOND}


def test_half_open_connections_make_room_before_established_ones() -> None:
    connections = Connections(FLAGS, 10)
    fill(connections, [Flow(local_port=1 + i, seen=from_here(SYN) | to_here(SYN_ACK) | from_here(ACK))
                       for i in range(6)])  # fmt: skip
    fill(connections, [Flow(remote_port=1 + i, seen=from_here(SYN)) for i in range(23)], 2 * SECOND)
    connections.settle(3 * SECOND, NO_INTERFACE)
    assert sum(has_ack(seen) for seen in connections.columns.seen.tolist()) == 6


def has_ack(seen: int) -> bool:
    return bool(seen & ACK)


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        (from_here(SYN), False),  # a scan
        (to_here(SYN), False),
        (to_here(SYN) | from_here(SYN_ACK), False),  # a SYN flood, which the endpoint answers
        (from_here(SYN) | to_here(SYN_ACK) | from_here(ACK), True),
        (from_here(ACK), True),  # its beginning was missed
    ],
)
def test_half_open_connections_do_not_last(seen: int, kept: bool) -> None:
    connections = Connections(FLAGS, 100, Timeouts())
    fill(connections, [Flow(seen=seen)])
    connections.settle(SECOND + 119 * SECOND, NO_INTERFACE)
    assert len(connections) == 1
    connections.settle(SECOND + 121 * SECOND, NO_INTERFACE)
    assert len(connections) == int(kept)


def test_the_connections_of_interfaces_that_went_are_over_also_those_just_begun() -> None:
    connections = Connections(FLAGS, 100)
    rows = flows(23)
    fill(connections, [row._replace(ifindex=7 + 2 * (i % 3)) for i, row in enumerate(rows)])
    connections.begin(columns([Flow(ifindex=9, remote_port=1), Flow(ifindex=11, remote_port=2)]))
    ended = connections.settle(2 * SECOND, np.array([9, 13]))
    assert ended.key["ifindex"].tolist() == [9] * 9
    assert sorted(connections.columns.key["ifindex"].tolist()) == [7] * 8 + [11] * 8


def test_begun_connections_are_found_after_settle_and_stay_sorted() -> None:
    connections = Connections(FLAGS, 100)
    rows = flows(23)
    prints = np.array([row.fingerprint for row in rows], np.uint64)
    fill(connections, rows[::3])
    connections.begin(columns(rows[1::3]))
    connections.begin(columns(rows[2::3]))
    place, known = connections.find(prints)
    assert known.tolist() == [i % 3 == 0 for i in range(23)]
    connections.settle(SECOND, NO_INTERFACE)
    assert connections.columns.fingerprint.tolist() == prints.tolist()
    place, known = connections.find(prints)
    assert known.all()
    assert place.tolist() == list(range(23))


def test_find_on_empty() -> None:
    connections = Connections(FLAGS, 100)
    place, known = connections.find(np.array([1, 23], np.uint64))
    assert (place.tolist(), known.tolist()) == ([0, 0], [False, False])
    fill(connections, flows(2))
    place, known = connections.find(np.zeros(0, np.uint64))
    assert (len(place), len(known)) == (0, 0)


@pytest.mark.parametrize(
    "asked",
    [
        [1],  # below all that are known
        [2**64 - 1],  # above
        [1, 2**64 - 1],
        [1, 10, 11, 20, 30, 2**64 - 1],
        [10],
        [30],
        [10, 20, 30],
        [11, 12, 19],
        [29, 30, 31],
    ],
)
def test_find_at_the_borders(asked: list[int]) -> None:
    connections = Connections(FLAGS, 100)
    connections.columns = columns(flows(3))._replace(fingerprint=np.array([10, 20, 30], np.uint64))
    place, known = connections.find(np.array(asked, np.uint64))
    assert known.tolist() == [each in (10, 20, 30) for each in asked]
    found = connections.columns.fingerprint[place[known]].tolist()
    assert found == [each for each in asked if each in (10, 20, 30)]


def test_what_protocol_a_connection_has_decides_its_patience() -> None:
    connections = Connections(FLAGS, 100, Timeouts(tcp=23 * SECOND, other=5 * SECOND))
    fill(connections, [Flow(protocol=TCP), Flow(protocol=UDP), Flow(protocol=132)])
    ended = connections.settle(7 * SECOND, NO_INTERFACE)
    assert sorted(ended.key["protocol"].tolist()) == [UDP, 132]

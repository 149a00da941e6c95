# SPDX-License-Identifier: Apache-2.0
"""Traffic to groups, and replies and segments that are seen before an opening."""

from dataclasses import replace

import numpy as np
import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import (
    FOREVER,
    Claim,
    Endpoint,
    Owner,
    host_owner,
)
from podtally.ledger.attribution.ownership import is_unicast
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import DENIED, FLOWS, UNDECIDED
from podtally.netlink.conntrack import Translations, Tuples
from tests.unit.ledger.forged_support import (
    SYN_ACK,
    TALK,
    T,
    flooded_to_web,
    settled,
    spoofed,
    values,
)
from tests.unit.rows import (
    ACK,
    FLAGS,
    SECOND,
    SYN,
    TCP,
    UDP,
    Flow,
    from_here,
    names,
    to_here,
)
from tests.unit.verdict_support import (
    DB_ADDRESS,
    FAR_ADDRESS,
    NOTHING_INTO_DB,
    ONLY_MYSQL,
    WEB,
    WEB_ADDRESS,
    WEB_FROM_FAR,
    declare,
    denied,
    due_events,
    epoch,
    make,
    out,
    present,
    verdicts,
    who,
)

HOST = Endpoint("host", "host", "host", "Host", "host", ports=(), host_network=True)


@pytest.mark.parametrize("address", ["224.0.0.251", "255.255.255.255", "ff02::fb"])
def test_what_comes_to_a_group_is_one_series_and_nothing_else(address: str) -> None:
    ledger = make()
    flows = [flooded_to_web(FAR_ADDRESS if "." in address else "2001:db8::1", address, UDP)
             ._replace(remote_port=port) for port in range(1000, 1023)]  # fmt: skip
    epoch(ledger, present(declare(WEB_FROM_FAR, NOTHING_INTO_DB), now_ns=5 * SECOND), flows)
    view = ledger.view()
    moved = [x for x, n in zip(view[FLOWS].labels, values(view[FLOWS]), strict=True) if n]
    assert [(x.workload, x.direction, x.peer_kind, x.peer_workload, x.port) for x in moved] == [
        ("web", "ingress", "external", "multicast", "0")
    ]
    assert [n for *_, n in view[FLOWS].values.tolist()] == [0, 0]
    assert not due_events(ledger, 5 * SECOND)
    assert not view[DENIED].labels


@pytest.mark.parametrize(
    ("address", "is_host"),
    [
        *[("240.10.12.2", True), ("255.255.255.254", True), ("223.255.255.255", True)],
        *[("224.0.0.1", False), ("239.255.255.255", False), ("255.255.255.255", False)],
    ],
)
def test_class_e_has_hosts(address: str, is_host: bool) -> None:
    """240.0.0.0/4 is used for pods; only the last address of it is a broadcast."""
    number = address_number(address).to_bytes(16)
    words = np.frombuffer(number, np.uint64)[None]
    assert bool(is_unicast(words)[0]) == is_host


def test_the_sender_to_a_group_is_judged() -> None:
    ledger = settled((ONLY_MYSQL,), [Flow("224.0.0.251", UDP, 5353, 5353)])
    assert [event.labels.direction for event in due_events(ledger, 5 * SECOND)] == ["egress"]
    assert verdicts(ledger) == {"denied": 23}


def test_an_owner_by_name_is_the_endpoint_of_that_name() -> None:
    static = Endpoint("shop", "web-0", "web", "Deployment", "static")
    mine = Owner("pod", "shop", "web-0", "web", "node")
    at = names({7: static}, [Claim(address_number(WEB_ADDRESS), mine, 0, FOREVER)])
    assert spoofed(settled((), [out(T, 443)], at)) == []
    assert spoofed(settled((), [out(T, 443)._replace(local=DB_ADDRESS)], at)) == [("web", 1)]
    assert who().endpoint(7).name == "web-0"


@pytest.mark.parametrize(
    ("local", "verdict"),
    [("198.18.0.9", "denied"), ("198.18.0.2", "undeclared")],
    ids=["of a macvlan pod", "of the host"],
)
def test_a_pod_on_an_uplink_with_an_address_of_its_own_is_not_on_the_hosts_network(
    local: str, verdict: str
) -> None:
    pod = WEB._replace(source="pod logs", host_network=True)  # as a socket's cgroup says
    host = Claim(address_number("198.18.0.2"), host_owner("n1"), 0)
    named = names({2: HOST}, [host])
    at = present(declare(ONLY_MYSQL), replace(named, sockets={4357: pod}), 5 * SECOND)
    ledger = make(undeclared=False)
    ledger.interfaces.appeared(2, "eth0", (0, 0), host=True)
    flow = Flow("198.18.0.1", UDP, 40123, 7777, 2, local, seen=FLAGS.socket, cgroup=4357)
    epoch(ledger, at, [flow])
    assert verdicts(ledger) == {verdict: 23}
    assert {labels.workload for labels in ledger.view()[FLOWS].labels} == {"web"}


def test_the_same_ports_again_count_for_a_reply_that_is_seen_first() -> None:
    """A server answers after UDP's silence: that it was asked is remembered."""
    ledger = make(undeclared=False)
    asked = Flow(FAR_ADDRESS, UDP, 53, 40123, first_direction=1, packets=(7, 7), bytes=(70, 70))
    epoch(ledger, present(declare(ONLY_MYSQL)), [asked])
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=20 * SECOND), [asked])
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=200 * SECOND), [])
    assert len(ledger.connections) == 0
    reply = asked._replace(first_direction=0, first_seen_ns=300 * SECOND)
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=300 * SECOND), [reply])
    assert {labels.port for labels in ledger.view()[FLOWS].labels} == {"53"}
    assert not denied(ledger)


def reply_first(ledger: Ledger, at: EpochContext) -> None:
    epoch(ledger, at, [Flow(FAR_ADDRESS, UDP, 53, 40123, first_seen_ns=at.now_ns)])


def test_a_reply_that_is_seen_first_is_what_the_tracker_says() -> None:
    def tracked(tuples: Tuples) -> Translations:
        found = tuples.remote_port == 53  # the client's own tuple
        n = len(found)
        return Translations(found, tuples.remote, np.zeros(n, np.uint16))

    ledger = make(undeclared=False)
    reply_first(ledger, present(declare(ONLY_MYSQL))._replace(translate=tracked))
    assert {labels.port for labels in ledger.view()[FLOWS].labels} == {"53"}
    assert not denied(ledger)


def test_a_reply_that_is_seen_first_while_the_watch_is_young_is_unknown_and_no_event() -> None:
    ledger = make(undeclared=False)
    ledger.interfaces.appeared(7, "veth7", (1_000_000, 1_000_000), at_ns=SECOND)
    reply_first(ledger, present(declare(ONLY_MYSQL), now_ns=2 * SECOND))
    assert {labels.port for labels in ledger.view()[FLOWS].labels} == {"unknown"}
    assert verdicts(ledger) == {"unknown": 23}
    assert not due_events(ledger, 2 * SECOND)


def test_an_endpoint_that_sends_from_a_servers_port_hides_no_denial() -> None:
    """On an interface that is watched since it is there, the first packet is the first."""
    ledger = make(undeclared=False)
    ledger.interfaces.appeared(7, "veth7", (100, 0), at_ns=SECOND)
    reply_first(ledger, present(declare(ONLY_MYSQL), now_ns=2 * SECOND))
    assert [labels.port for labels in denied(ledger)] == ["40123"]


def test_data_without_an_opening_are_news_and_headers_are_not() -> None:
    ledger = make(undeclared=False)
    bare = Flow(T, TCP, 41003, 4445, seen=from_here(ACK), bytes=(66, 0))
    epoch(ledger, present(declare(ONLY_MYSQL)), [bare])
    assert verdicts(ledger) == {"unknown": 66}
    assert not due_events(ledger)
    data = bare._replace(bytes=(1500, 0))
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=2 * SECOND), [data])
    (event,) = due_events(ledger, 2 * SECOND)
    assert (event.labels.verdict, event.labels.direction) == ("unknown", "egress")
    view = ledger.view()[UNDECIDED]
    (labels,) = view.labels
    assert (labels.workload, labels.cause, values(view)) == ("web", "unknown initiator", [1])


@pytest.mark.parametrize(
    ("sent", "packets", "is_news"),
    [
        (54 * 40, 40, False),  # bare segments, however many
        (66 * 10, 10, False),  # with timestamps
        (1054, 1, True),
        (20 * 1054 + 600 * 54, 620, True),  # data among many bare segments
        (500 * 94, 500, True),  # in the options
    ],
)
def test_no_number_of_bare_segments_hides_data(sent: int, packets: int, is_news: bool) -> None:
    ledger = make(undeclared=False)
    flow = Flow(T, TCP, 41003, 4445, seen=from_here(ACK), bytes=(sent, 600 * 54))
    epoch(ledger, present(declare(ONLY_MYSQL)), [flow._replace(packets=(packets, 600))])
    assert bool(due_events(ledger)) == is_news


def test_a_forged_answer_to_an_allowed_connection_accuses_no_one() -> None:
    """A peer that may connect adds a SYN/ACK, as if the pod had connected to it."""
    ledger, at = make(), present(declare(ONLY_MYSQL))
    came_in = to_here(SYN) | from_here(SYN_ACK) | from_here(ACK) | to_here(ACK)
    flow = Flow("198.18.7.7", TCP, 80, 23000, seen=came_in, first_direction=1)
    epoch(ledger, at, [flow])
    epoch(ledger, at._replace(now_ns=2 * SECOND), [flow._replace(seen=to_here(SYN_ACK))])
    assert not denied(ledger)


def test_mid_stream_just_after_the_watch_began_is_not_new() -> None:
    ledger = make(undeclared=False)
    ledger.interfaces.appeared(7, "veth7", (1_000_000, 1_000_000), at_ns=SECOND)
    flow = Flow(T, TCP, 8080, 41003, seen=from_here(ACK) | to_here(ACK), bytes=(9000, 9000))
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=2 * SECOND), [flow])
    assert verdicts(ledger) == {"unknown": 18000}
    assert not due_events(ledger, 2 * SECOND)


def test_each_unknown_peer_is_named() -> None:
    ledger = make(undeclared=False)
    flows = [Flow(f"198.18.7.{n}", 47, 0, 0) for n in range(1, 24)]
    epoch(ledger, present(declare(ONLY_MYSQL)), flows)
    events = due_events(ledger, most=99)
    assert {each.labels.peer_address for each in events} == {f"198.18.7.{n}" for n in range(1, 24)}
    assert {(each.labels.verdict, each.labels.protocol) for each in events} == {("unknown", "gre")}


def test_a_frame_in_the_peers_name_contests_what_has_no_handshake() -> None:
    """UDP: the pod sends the first packet itself, as if its peer had."""
    ledger = make(undeclared=False)
    forged = Flow(WEB_ADDRESS, UDP, 4501, 42001, local=T)
    real = Flow(T, UDP, 42001, 4501, first_direction=1, bytes=(500, 30), packets=(1, 1))
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=5 * SECOND), [forged, real])
    assert [(labels.direction, labels.port) for labels in denied(ledger)] == [("egress", "4501")]


def test_a_forged_syn_does_not_replace_the_opener_that_the_tracker_knows() -> None:
    """It contests the connection; egress stays denied."""

    def tracked(tuples: Tuples) -> Translations:
        found = tuples.remote_port == TALK.remote_port
        return Translations(found, tuples.remote, np.zeros(len(found), np.uint16))

    ledger = make(undeclared=False)
    for second, seen in enumerate((ACK, ACK | to_here(SYN), ACK), 1):
        at = present(declare(ONLY_MYSQL), now_ns=second * SECOND)
        epoch(ledger, at._replace(translate=tracked), [TALK._replace(seen=seen)])
    assert verdicts(ledger) == {"denied": 3 * sum(TALK.bytes)}

# SPDX-License-Identifier: Apache-2.0
"""Forged and flooded frames: they hide no denial, and they make no connection of an endpoint's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import (
    DISPUTED,
    FOREVER,
    Claim,
    Endpoint,
    Owner,
    host_owner,
    owner_of,
)
from podtally.identity.name_table import Names
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.families import (
    BOOKS,
    DENIED,
    FLOWS,
    PODS,
    SPOOFED,
    UNDECIDED,
    UNKNOWN_VERDICTS,
)
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.ownership import is_unicast
from podtally.ledger.series import SeriesView
from podtally.netlink.conntrack import Translations, Tuples
from tests.unit.rows import (
    ACK,
    FLAGS,
    RST,
    SECOND,
    SYN,
    TCP,
    UDP,
    Flow,
    from_here,
    names,
    to_here,
)
from tests.unit.test_verdicts import (
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
SYN_ACK = SYN | ACK
T = "198.18.7.7"  # the server, outside
REAL_OUT = from_here(SYN) | to_here(SYN_ACK) | from_here(ACK) | to_here(ACK)
REAL_IN = to_here(SYN) | from_here(SYN_ACK) | from_here(ACK) | to_here(ACK)
BOTH_WAYS = (ONLY_MYSQL, WEB_FROM_FAR)  # web's egress and ingress
FORGED_OUT = (
    to_here(SYN),  # sent by the pod in the server's name, and routed back to it
    from_here(SYN_ACK),
    to_here(SYN) | from_here(SYN_ACK),
    to_here(RST) | to_here(SYN),
)
FORGED_IN = (from_here(SYN), to_here(SYN_ACK), from_here(SYN) | to_here(SYN_ACK))
TALK = Flow(T, TCP, 41001, 4444, bytes=(300, 400), packets=(3, 4))


def values(view: SeriesView[Any]) -> list[int]:
    return [first for first, *_ in view.values.tolist()]


@pytest.mark.parametrize("texts", [BOTH_WAYS, (ONLY_MYSQL,)], ids=["both ways", "egress only"])
@pytest.mark.parametrize("forged", FORGED_OUT)
@pytest.mark.parametrize("when", ["before", "amid", "after"])
def test_a_forged_frame_hides_no_denied_egress(
    texts: Sequence[str], forged: int, when: str
) -> None:
    ledger = make(undeclared=False)
    seen = {
        "before": (forged, REAL_OUT),
        "amid": (forged | REAL_OUT,),
        "after": (REAL_OUT, forged),
    }[when]
    for second, flags in enumerate(seen, 1):
        at = present(declare(*texts), now_ns=second * SECOND)
        epoch(ledger, at, [TALK._replace(seen=flags, first_direction=1)])
    # At the egress only, or at the ingress as well: both are true of what was seen.
    assert {labels.policy for labels in denied(ledger)} <= {"shop/only-mysql", "shop/web-from-far"}
    events = [event for event in due_events(ledger, 9 * SECOND) if event.labels.verdict == "denied"]
    assert any(event.labels.direction == "egress" for event in events) or len(texts) == 2
    assert events
    assert verdicts(ledger)["denied"] >= 700


@pytest.mark.parametrize("forged", FORGED_IN)
@pytest.mark.parametrize("when", ["before", "amid", "after"])
def test_a_forged_frame_hides_no_denied_ingress(forged: int, when: str) -> None:
    ledger = make(undeclared=False)
    seen = {"before": (forged, REAL_IN), "amid": (forged | REAL_IN,), "after": (REAL_IN, forged)}
    for second, flags in enumerate(seen[when], 1):
        at = present(declare(WEB_FROM_FAR), now_ns=second * SECOND)
        epoch(ledger, at, [TALK._replace(seen=flags)])
    (event,) = [
        event for event in due_events(ledger, 9 * SECOND) if event.labels.verdict == "denied"
    ]
    assert event.labels.direction == "ingress"
    assert list(denied(ledger).values()) == [1]


def test_of_two_openings_the_answer_shows_the_owner_of_the_port() -> None:
    ledger = make()
    at = present(declare(*BOTH_WAYS))
    epoch(ledger, at, [TALK._replace(seen=REAL_OUT | to_here(SYN), first_direction=1)])
    (labels,) = denied(ledger)
    assert (labels.direction, labels.port, labels.policy) == ("egress", "4444", "shop/only-mysql")


def test_an_opening_that_is_seen_late_is_counted_then() -> None:
    ledger = make()
    first = out(T, 443)._replace(seen=from_here(ACK))
    epoch(ledger, present(declare()), [first])
    epoch(ledger, present(declare(), now_ns=2 * SECOND), [first._replace(seen=from_here(SYN))])
    flows = ledger.view()[FLOWS]
    begun = {x.port: n for x, (*_, n) in zip(flows.labels, flows.values.tolist(), strict=True) if n}
    assert begun == {"443": 1}


def test_backscatter_is_no_egress() -> None:
    """An unsolicited answer, refused by the endpoint: a scan, or a stranger's forged source."""
    for reply in (0, from_here(RST)):
        ledger = make(undeclared=False)
        row = TALK._replace(seen=to_here(SYN_ACK) | reply, first_direction=1)
        epoch(ledger, present(declare(ONLY_MYSQL)), [row])
        assert not denied(ledger)
        assert "denied" not in verdicts(ledger)


def spoofed(ledger: Ledger) -> list[tuple[str, int]]:
    view = ledger.view()[SPOOFED]
    return [(x.workload, n) for x, n in zip(view.labels, values(view), strict=True)]


def settled(texts: Sequence[str], flows: Sequence[Flow], at: Names | None = None) -> Ledger:
    """A ledger that has seen flows, long enough for addresses to have been heard of."""
    ledger = make(undeclared=False)
    epoch(ledger, present(declare(*texts), at, 5 * SECOND), flows)
    return ledger


def test_a_source_that_is_not_the_endpoints_is_counted_and_reported_in_one_event() -> None:
    flows = [
        Flow("203.0.113.5", UDP, 1000 + i, 53, local=f"198.18.{i}.1", packets=(i + 1, 0))
        for i in range(23)
    ]
    ledger = settled((), [*flows, out("203.0.113.5", 443)])
    assert spoofed(ledger) == [("web", sum(range(1, 24)))]
    (event,) = due_events(ledger, 5 * SECOND)
    labels = event.labels
    assert (labels.verdict, labels.direction, labels.pod) == ("spoofed", "egress", "web-0")
    assert (labels.peer_kind, labels.peer_address, labels.port) == ("unknown", "", "other")
    assert event.connections == 23
    assert verdicts(ledger) == {"unknown": 23 * 23, "undeclared": 23}
    (cause,) = {labels.cause for labels in ledger.view()[UNKNOWN_VERDICTS].labels}
    assert cause == "foreign source"


def test_what_is_denied_stays_so_whatever_source_it_is_sent_from() -> None:
    ledger = settled((ONLY_MYSQL,), [out(T, 4444)._replace(local="198.18.9.9")])
    assert verdicts(ledger) == {"denied": 23}
    assert spoofed(ledger) == [("web", 1)]
    (event,) = due_events(ledger, 5 * SECOND)
    assert event.labels.verdict == "denied"
    assert event.labels.reason.endswith("sent from an address that is not this endpoint's")


def test_the_frame_that_a_pod_sends_to_itself_in_anothers_name() -> None:
    forged = Flow(WEB_ADDRESS, TCP, 4444, 41001, local=T, seen=from_here(SYN))
    ledger = settled(BOTH_WAYS, [forged])
    assert spoofed(ledger) == [("web", 1)]
    assert [event.labels.verdict for event in due_events(ledger, 5 * SECOND)] == ["spoofed"]


@pytest.mark.parametrize(
    "local", ["0.0.0.0", "::", "169.254.3.4", "fe80::23", WEB_ADDRESS], ids=str
)
def test_what_is_sent_before_there_is_an_address_is_not_spoofed(local: str) -> None:
    both = [
        Claim(address_number("2001:db8::7"), owner_of(WEB), 0),
        Claim(address_number(WEB_ADDRESS), owner_of(WEB), 0),
    ]
    remote = "255.255.255.255" if "." in local else "ff02::2"
    at = names({7: WEB}, both)
    ledger = settled((), [Flow(remote, UDP, 68, 67, local=local)], at)
    assert spoofed(ledger) == []


def test_where_the_endpoints_addresses_are_not_known_nothing_is_said() -> None:
    foreign = out(T, 443)._replace(local="198.18.9.9")
    into = Flow(
        T, UDP, 53, 40123, local="198.18.9.9", first_direction=1, bytes=(0, 23), packets=(0, 1)
    )
    only_ipv6 = names({7: WEB}, [Claim(address_number("2001:db8::7"), owner_of(WEB), 0)])
    for at in (names({7: WEB}), only_ipv6):
        ledger = settled((), [foreign, into], at)
        assert spoofed(ledger) == []
        assert verdicts(ledger) == {"undeclared": 46}
    of_the_link = names({7: WEB}, [Claim(address_number("fe80::7"), owner_of(WEB), 0)])
    ledger = settled((), [foreign._replace(local="2001:db8::7", remote="2001:db8::9")], of_the_link)
    assert spoofed(ledger) == []


def test_an_address_of_unknown_owner_accuses_no_one() -> None:
    claims = [
        Claim(address_number(WEB_ADDRESS), owner_of(WEB), 0),
        Claim(address_number("198.18.9.9"), DISPUTED, 0),
    ]
    foreign = out(T, 443)._replace(local="198.18.9.9")
    assert spoofed(settled((), [foreign], names({7: WEB}, claims))) == []


def test_an_address_that_is_heard_of_late_is_the_endpoints() -> None:
    """It is known before the flow need be named, if not as early as its first packet."""
    ledger, flow = make(undeclared=False), out(T, 443)._replace(local="10.99.0.77")
    epoch(ledger, present(declare()), [flow])
    assert len(ledger.pending) == 1
    new = Claim(address_number("10.99.0.77"), owner_of(WEB), SECOND + 7)
    late = names({7: WEB}, [Claim(address_number(WEB_ADDRESS), owner_of(WEB), 0), new])
    epoch(ledger, present(declare(), late, 2 * SECOND), [])
    assert spoofed(ledger) == []
    assert verdicts(ledger) == {"undeclared": 23}
    assert not due_events(ledger, 2 * SECOND)


def test_forwarders_send_for_others() -> None:
    limits = Limits(10_000, 10_000, 300 * SECOND, forwarders=("shop/w*",))
    ledger = Ledger(FLAGS, limits)
    flow = out(T, 443)._replace(local="198.18.9.9", bytes=(23, 23), packets=(1, 1))
    epoch(ledger, present(declare(), now_ns=5 * SECOND), [flow])
    assert spoofed(ledger) == []
    assert verdicts(ledger) == {"undeclared": 46}


def flooded_to_web(remote: str = FAR_ADDRESS, local: str = DB_ADDRESS, protocol: int = TCP) -> Flow:
    """What one pod sends to another, and a bridge to web as well."""
    return Flow(remote, protocol, 3306, 40123, local=local, first_direction=1,
                seen=to_here(SYN) if protocol == TCP else 0, bytes=(0, 23), packets=(0, 1))  # fmt: skip


def test_what_a_bridge_floods_is_no_connection_of_a_bystanders() -> None:
    ledger = make()
    closed = WEB_FROM_FAR.replace("app: far", "app: none")
    epoch(ledger, present(declare(closed), now_ns=5 * SECOND), [flooded_to_web()])
    view = ledger.view()
    assert (len(view[FLOWS].labels), len(view[DENIED].labels)) == (0, 0)
    assert not due_events(ledger, 5 * SECOND)
    books = {
        labels.direction: sums
        for labels, sums in zip(view[BOOKS].labels, view[BOOKS].values.tolist(), strict=True)
    }
    assert books == {"egress": [0, 0, 0], "ingress": [0, 23, 0]}  # flows, other, overflow
    pods = {
        labels.direction: sums
        for labels, sums in zip(view[PODS].labels, view[PODS].values.tolist(), strict=True)
        if labels.pod == "web-0"
    }
    assert pods == {"egress": [0, 0], "ingress": [23, 1]}


def test_an_endpoint_that_answers_a_flood_is_reported() -> None:
    ledger = make(undeclared=False)
    epoch(ledger, present(declare(), now_ns=5 * SECOND), [flooded_to_web()])
    answer = flooded_to_web()._replace(seen=from_here(SYN_ACK), bytes=(23, 0), packets=(1, 0))
    epoch(ledger, present(declare(), now_ns=6 * SECOND), [answer])
    assert spoofed(ledger) == [("web", 1)]
    assert [event.labels.verdict for event in due_events(ledger, 6 * SECOND)] == ["spoofed"]


def test_flooded_to_what_turns_out_to_be_the_endpoints_address() -> None:
    ledger = make(undeclared=False)
    flow = flooded_to_web(local="10.99.0.77")
    epoch(ledger, present(declare(), now_ns=5 * SECOND), [flow])
    claims = [Claim(address_number(a), owner_of(WEB), 0) for a in (WEB_ADDRESS, "10.99.0.77")]
    late = names({7: WEB}, claims)
    for second in (6, 7):
        more = flow._replace(seen=to_here(ACK))
        epoch(ledger, present(declare(), late, second * SECOND), [more])
    assert verdicts(ledger) == {"undeclared": 46}


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
    pod = WEB._replace(source="pod logs", host_network=True)  # as a socket's cgroup tells
    host = Claim(address_number("198.18.0.2"), host_owner("n1"), 0)
    named = names({2: HOST}, [host])
    at = present(declare(ONLY_MYSQL), replace(named, sockets={4357: pod}), 5 * SECOND)
    ledger = make(undeclared=False)
    ledger.interfaces.appeared(2, "eth0", (0, 0), host=True)
    flow = Flow("198.18.0.1", UDP, 40123, 7777, 2, local, seen=FLAGS.socket, cgroup=4357)
    epoch(ledger, at, [flow])
    assert verdicts(ledger) == {verdict: 23}
    assert {labels.workload for labels in ledger.view()[FLOWS].labels} == {"web"}


def test_what_is_said_again_of_the_same_ports_counts_for_a_reply_that_is_seen_first() -> None:
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


def test_mid_stream_while_the_watch_is_young_is_no_news() -> None:
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
    """It contests the connection, whose egress stays denied."""

    def tracked(tuples: Tuples) -> Translations:
        found = tuples.remote_port == TALK.remote_port
        return Translations(found, tuples.remote, np.zeros(len(found), np.uint16))

    ledger = make(undeclared=False)
    for second, seen in enumerate((ACK, ACK | to_here(SYN), ACK), 1):
        at = present(declare(ONLY_MYSQL), now_ns=second * SECOND)
        epoch(ledger, at._replace(translate=tracked), [TALK._replace(seen=seen)])
    assert verdicts(ledger) == {"denied": 3 * sum(TALK.bytes)}

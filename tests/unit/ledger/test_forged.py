# SPDX-License-Identifier: Apache-2.0
"""Forged and flooded frames: they hide no denial, and they make no connection of an endpoint's."""

from collections.abc import Sequence

import pytest

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import (
    DISPUTED,
    Claim,
    owner_of,
)
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import BOOKS, DENIED, FLOWS, PODS, UNKNOWN_VERDICTS
from tests.unit.ledger.forged_support import SYN_ACK, TALK, T, flooded_to_web, settled, spoofed
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
from tests.unit.verdict_support import (
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
)

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


def test_where_the_endpoints_addresses_are_not_known_nothing_is_reported() -> None:
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


def test_an_address_that_is_reported_late_is_the_endpoints() -> None:
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

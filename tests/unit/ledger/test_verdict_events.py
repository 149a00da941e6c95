# SPDX-License-Identifier: Apache-2.0
"""Candidates, and the events of verdicts: what is reported, how often, and after a restart."""

from pathlib import Path

import msgspec

from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import Endpoint
from podtally.identity.services import BackendAddress as Address
from podtally.identity.services import Services
from podtally.kube.objects import KubeService, KubeServicePort
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.metrics.families import CANDIDATES, DENIED, EXPOSED, UNKNOWN_VERDICTS
from podtally.policy.exposure.exposures import build_exposure
from podtally.runtime.extras import Extras
from tests.unit.rows import (
    ACK,
    RST,
    SECOND,
    TCP,
    Flow,
    book,
    from_here,
    names,
)
from tests.unit.verdict_support import (
    FAR_ADDRESS,
    ONLY_MYSQL,
    WEB,
    WEB_ADDRESS,
    WEB_FROM_FAR,
    declare,
    denied,
    due_events,
    epoch,
    into,
    make,
    out,
    present,
    verdicts,
)


def test_candidates_are_distinguished_where_they_differ() -> None:
    ledger = make()
    at = present(declare(WEB_FROM_FAR, candidates=[ONLY_MYSQL]))
    epoch(ledger, at, [out("203.0.113.10", 3306), out("203.0.113.5", 3306), into(FAR_ADDRESS, 80)])
    assert verdicts(ledger) == {"undeclared": 46, "allowed": 23}
    view = ledger.view()[CANDIDATES]
    found = {
        (x.verdict, x.candidate, x.policy, x.port): values[::2]
        for x, values in zip(view.labels, view.values.tolist(), strict=True)
    }
    assert found == {
        ("undeclared", "denied", "shop/only-mysql", "3306"): [23, 1],
        ("undeclared", "allowed", "", "3306"): [23, 1],
    }
    assert not denied(ledger)


def test_a_candidate_takes_the_place_of_its_namesake() -> None:
    ledger = make()
    wider = ONLY_MYSQL.replace(", except: [203.0.113.10/32]", "")
    at = present(declare(ONLY_MYSQL, candidates=[wider]))
    epoch(ledger, at, [out("203.0.113.10", 3306)])
    (labels,) = ledger.view()[CANDIDATES].labels
    assert (labels.verdict, labels.candidate) == ("denied", "allowed")


def test_events_are_reported_once_a_while_and_summed() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out("198.18.7.7", 80, local_port=p) for p in (1, 2, 3)])
    (event,) = due_events(ledger)
    assert (event.connections, event.egress_bytes) == (3, 69)
    again = at._replace(now_ns=2 * SECOND)
    epoch(ledger, again, [out("198.18.7.7", 80, local_port=4)])
    assert not due_events(ledger, 2 * SECOND)
    (event,) = due_events(ledger, 62 * SECOND)
    assert (event.connections, event.new_connections, event.egress_bytes) == (4, 1, 92)
    assert not due_events(ledger, 200 * SECOND)


def test_events_wait_for_their_turn_and_none_is_lost() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out("198.18.7.7", port) for port in range(1, 8)])
    seen = [event.labels.port for _ in range(4) for event in due_events(ledger, most=2)]
    assert sorted(map(int, seen)) == list(range(1, 8))


def test_what_is_undeclared_is_no_event_unless_enabled() -> None:
    ledger = make(undeclared=False)
    epoch(ledger, present(declare()), [out("198.18.7.7", 80)])
    assert not due_events(ledger)


def test_a_flow_that_waited_for_its_name_is_judged_and_reported_with_all_its_bytes() -> None:
    ledger, declared = make(), declare(ONLY_MYSQL)
    nameless = names({7: WEB._replace(final=False)})
    epoch(ledger, present(declared, nameless), [out("198.18.7.7", 80)])
    assert not due_events(ledger)
    epoch(ledger, present(declared, now_ns=2 * SECOND), [])
    assert verdicts(ledger) == {"denied": 23}
    (event,) = due_events(ledger, 2 * SECOND)
    assert (event.connections, event.egress_bytes) == (1, 23)
    assert list(denied(ledger).values()) == [1]


def test_the_flow_log_says_why() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    ended = out("198.18.7.7", 80)
    ledger.begin()
    book(ledger, at, [ended])
    (over,) = ledger.settle(at, [7])
    assert over.reasons == [
        "denied by default: shop/only-mysql selects it and no egress rule allows this; nearest shop/only-mysql egress[0]: "
        "198.18.7.7 is not in 203.0.113.0/24 and port 80 is not 3306"
    ]


def test_a_host_is_judged_by_its_own_policies() -> None:
    text = """\
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {name: ssh}
spec:
  units: [ssh.service]
  ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 22}]}]
"""
    ssh = Endpoint("systemd", "ssh.service", "ssh.service", "Systemd", "systemd", node="n1",
                   host_network=True)  # fmt: skip
    for remote, verdict in (("203.0.113.5", "allowed"), ("198.18.7.7", "denied")):
        ledger = make()
        epoch(ledger, present(declare(text), names({7: ssh})), [into(remote, 22)])
        assert verdicts(ledger) == {verdict: 23}


def test_what_was_judged_and_reported_comes_back_from_the_checkpoint(tmp_path: Path) -> None:
    ledger, here = make(), Position("boot", "generation", 23)
    at = present(declare(ONLY_MYSQL, candidates=[WEB_FROM_FAR]))
    first = out("198.18.7.7", 80)
    epoch(ledger, at, [first, into(FAR_ADDRESS, 80), Flow("203.0.113.5", seen=ACK)])
    assert due_events(ledger)
    epoch(ledger, at._replace(now_ns=2 * SECOND), [out("198.18.7.7", 80, local_port=2)])
    Checkpoint(tmp_path).write(here, ledger.save() | Extras().save())
    again, read = make(), Checkpoint(tmp_path).read()
    assert read is not None
    again.load(read[1], 3 * SECOND)
    for family in (DENIED, UNKNOWN_VERDICTS, EXPOSED, CANDIDATES):
        before, after = (each.view()[family] for each in (ledger, again))
        assert list(after.labels) == list(before.labels)
        assert after.values.tolist() == before.values.tolist()
    assert denied(again)
    assert not due_events(again, 3 * SECOND)
    (event,) = due_events(again, 100 * SECOND)
    assert (event.connections, event.new_connections, event.first_ns) == (2, 1, SECOND)
    # The same connections are the same events' afterwards.
    epoch(again, at._replace(now_ns=101 * SECOND), [first])
    (event,) = again.events.due(9, 0, 500 * SECOND)[1] or [event]
    assert len(again.events) == len(ledger.events)
    assert list(denied(again).values()) == [2]


def test_an_event_is_kept_while_its_connection_lasts_and_until_it_is_reported() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL))
    epoch(ledger, at, [out("198.18.7.7", 80), out("198.18.7.7", 81)])
    late = 10_000 * SECOND
    ledger.expire(at.names, late)
    assert len(ledger.events) == 2
    assert len(due_events(ledger)) == 2
    over = [out("198.18.7.7", 80)._replace(seen=from_here(RST))]
    epoch(ledger, at._replace(now_ns=2 * SECOND), over)
    epoch(ledger, at._replace(now_ns=9 * SECOND), [])
    ledger.expire(at.names, late)
    assert [labels.port for _, labels in ledger.events.table.pairs()] == ["81"]


def test_exposed_to_the_outside() -> None:
    service = KubeService(
        "shop", "web", "u", ("10.99.200.1",), (KubeServicePort("", "TCP", 80, 30080),), 0
    )
    nodeport = msgspec.structs.replace(service, type="NodePort")
    behind = {("shop", "web"): {(TCP, 80): (Address(address_number(WEB_ADDRESS), 8080),)}}
    for exposing, exposed in ((service, 1), (nodeport, 0)):
        known = Services({}, behind, {("shop", "web"): exposing})
        ledger = make(undeclared=False)
        at = present(declare())._replace(exposure=build_exposure((), known, ()))
        epoch(ledger, at, [into("198.18.7.7", 8080), into(FAR_ADDRESS, 8080)])
        assert [c for (c,) in ledger.view()[EXPOSED].values.tolist()] == [1] * exposed
        events = due_events(ledger)
        assert [event.labels.exposure for event in events] == ["undeclared"] * exposed
        assert [event.labels.verdict for event in events] == ["undeclared"] * exposed


def test_events_of_declared_exposure_say_how_it_is_declared() -> None:
    service = KubeService(
        "shop", "web", "u", ("10.99.200.1",), (KubeServicePort("", "TCP", 80, 30080),), 0
    )
    nodeport = msgspec.structs.replace(service, type="NodePort")
    behind = {("shop", "web"): {(TCP, 80): (Address(address_number(WEB_ADDRESS), 8080),)}}
    known = build_exposure((), Services({}, behind, {("shop", "web"): nodeport}), ())
    ledger = make()
    at = present(declare(WEB_FROM_FAR))._replace(exposure=known)
    epoch(ledger, at, [into("198.18.7.7", 8080), out("203.0.113.5", 443)])
    found = {(e.labels.verdict, e.labels.exposure) for e in due_events(ledger)}
    assert found == {("denied", "NodePort shop/web:30080"), ("undeclared", "")}
    # Once it is declared no more, that is another event.
    at = at._replace(exposure=build_exposure((), Services({}, {}, {}), ()), now_ns=2 * SECOND)
    epoch(ledger, at, [into("198.18.7.7", 8080)._replace(local_port=8080, remote_port=9)])
    assert [e.labels.exposure for e in due_events(ledger, 2 * SECOND)] == ["undeclared"]

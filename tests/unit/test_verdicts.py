# SPDX-License-Identifier: Apache-2.0
"""What policy says of connections, as the ledger books it: verdicts, denials, events."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import FOREVER, Claim, Endpoint, Owner
from podtally.identity.name_table import Names
from podtally.identity.services import BackendAddress as Address
from podtally.identity.services import Services
from podtally.kube.objects import KubeService, KubeServicePort
from podtally.ledger.checkpoint import Checkpoint, Position
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.events import Due
from podtally.ledger.families import CANDIDATES, DENIED, EXPOSED, FLOWS, UNKNOWN_VERDICTS
from podtally.ledger.label_sets import DeniedLabels
from podtally.ledger.ledger import Ledger, Limits
from podtally.netlink.conntrack import Translations, Tuples
from podtally.policy.exposure.exposures import build_exposure
from podtally.policy.load.parser import read_text
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import Policy
from podtally.runtime.extras import Extras
from tests.unit.rows import (
    ACK,
    FLAGS,
    ICMP,
    RST,
    SECOND,
    SYN,
    TCP,
    UDP,
    Flow,
    book,
    from_here,
    names,
    to_here,
    words,
)

WEB = Endpoint("shop", "web-0", "web", "Deployment", "kubernetes", (("app", "web"),), "u-web")
DB = Endpoint("shop", "db-0", "db", "StatefulSet", "kubernetes", (("app", "db"),), "u-db")
WEB_ADDRESS, DB_ADDRESS, FAR_ADDRESS = "10.99.0.7", "10.99.0.9", "10.99.3.3"
FAR = Owner(
    "pod", "shop", "far-0", "far", "cluster", "Deployment", "n2", "u-far", (("app", "far"),)
)
PLACES = ClusterLabels("n1", {"shop": ()}, {"n1": ()}, known=True)

# The two policies that people start from, and the tier behind them.
ONLY_MYSQL = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-mysql, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.10/32]}}]
    ports: [{protocol: TCP, port: 3306}]
"""
WEB_FROM_FAR = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-from-far, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]
"""
NOTHING_INTO_DB = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
"""
UNREADABLE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: shop}
spec: {podSelector: 7}
"""


def policies(*texts: str, candidate: bool = False) -> tuple[Policy, ...]:
    return tuple(p for text in texts for p in read_text(text, "test", candidate).policies)


def declare(*texts: str, candidates: Sequence[str] = ()) -> DeclaredPolicies:
    return DeclaredPolicies(policies(*texts), policies(*candidates, candidate=True), ())


def make(undeclared: bool = True, events: int = 1000) -> Ledger:
    limits = Limits(10_000, 10_000, 300 * SECOND, events=events, undeclared_events=undeclared)
    return Ledger(FLAGS, limits, keep_closed=True)


def who(far: Owner = FAR) -> Names:
    db = Owner("pod", "shop", "db-0", "db", "node", "StatefulSet", "n1", "u-db", DB.labels)
    web = Owner("pod", "shop", "web-0", "web", "node", "Deployment", "n1", "u-web", WEB.labels)
    service = Owner("service", "shop", "sql", "sql", "cluster", "Service", uid="u-sql")
    owners = {DB_ADDRESS: db, WEB_ADDRESS: web, FAR_ADDRESS: far, "198.18.0.3": service}
    claims = [Claim(address_number(a), owner, 0, FOREVER) for a, owner in owners.items()]
    return names({7: WEB, 9: DB}, claims)


def present(
    declared: DeclaredPolicies, at: Names | None = None, now_ns: int = SECOND
) -> EpochContext:
    return EpochContext(at or who(), now_ns, cluster_labels=PLACES, declared=declared)


def out(remote: str, port: int, local_port: int = 40123) -> Flow:
    """A connection that web begins."""
    return Flow(remote, local_port=local_port, remote_port=port, seen=from_here(SYN))


def into(remote: str, port: int) -> Flow:
    """One that somebody begins to web."""
    return Flow(remote, local_port=port, remote_port=40123, seen=to_here(SYN), first_direction=1,
                bytes=(0, 23), packets=(0, 1))  # fmt: skip


def epoch(ledger: Ledger, at: EpochContext, flows: Sequence[Flow]) -> None:
    ledger.begin()
    if flows:
        book(ledger, at, flows)
    ledger.settle(at, ())


def verdicts(ledger: Ledger) -> dict[str, int]:
    """Bytes of both directions by verdict."""
    view = ledger.view()[FLOWS]
    found: dict[str, int] = {}
    for labels, values in zip(view.labels, view.values.tolist(), strict=True):
        found[labels.verdict] = found.get(labels.verdict, 0) + values[0]
    return {verdict: count for verdict, count in found.items() if count}


def denied(ledger: Ledger) -> dict[DeniedLabels, int]:
    view = ledger.view()[DENIED]
    return dict(zip(view.labels, view.values[:, 0].tolist(), strict=True))


def due_events(ledger: Ledger, now_ns: int = SECOND, most: int = 1000) -> list[Due]:
    index, due = ledger.events.due(most, 60 * SECOND, now_ns)
    ledger.events.mark_reported(index, now_ns)
    return due


def test_a_denied_connection() -> None:
    ledger = make()
    epoch(ledger, present(declare(ONLY_MYSQL)), [out("203.0.113.10", 3306)])
    assert verdicts(ledger) == {"denied": 23}
    mysql = DeniedLabels(
        "shop", "web", "egress", "external", "", "office", "tcp", "3306", "shop/only-mysql"
    )
    assert denied(ledger) == {mysql: 1}
    (event,) = due_events(ledger)
    assert event.labels[:6] == ("denied", "egress", "shop", "web-0", "web", "Deployment")
    assert (event.labels.peer_address, event.labels.port) == ("203.0.113.10", "3306")
    assert event.labels.policy == "shop/only-mysql"
    assert event.labels.reason == (
        "denied by default: shop/only-mysql selects it and no egress rule allows this; nearest shop/only-mysql egress[0]: "
        "203.0.113.10 is in 203.0.113.10/32, excepted from 203.0.113.0/24"
    )
    assert (event.connections, event.new_connections, event.egress_bytes) == (1, 1, 23)


@pytest.mark.parametrize(
    ("texts", "flow", "verdict"),
    [
        ((), out("203.0.113.5", 443), "undeclared"),
        ((ONLY_MYSQL,), out("203.0.113.5", 3306), "allowed"),
        ((ONLY_MYSQL,), out("203.0.113.5", 3307), "denied"),
        ((ONLY_MYSQL,), into("203.0.113.5", 3307), "undeclared"),
        ((WEB_FROM_FAR,), into(FAR_ADDRESS, 80), "allowed"),
        ((WEB_FROM_FAR,), into("203.0.113.5", 80), "denied"),
        ((UNREADABLE,), out("203.0.113.5", 443), "unknown"),
        ((ONLY_MYSQL,), Flow("203.0.113.5", remote_port=3306, seen=ACK), "unknown"),
        ((), Flow("203.0.113.5", remote_port=3306, seen=ACK), "undeclared"),  # whoever opened it
        ((ONLY_MYSQL, WEB_FROM_FAR), Flow("203.0.113.5", remote_port=3307, seen=ACK), "denied"),
        ((ONLY_MYSQL,), Flow("203.0.113.5", ICMP, 0, 0), "unknown"),
        ((), Flow("203.0.113.5", ICMP, 0, 0), "undeclared"),
        ((ONLY_MYSQL,), Flow("203.0.113.5", UDP, 0, 0), "denied"),
    ],
)
def test_verdicts(texts: tuple[str, ...], flow: Flow, verdict: str) -> None:
    ledger = make()
    epoch(ledger, present(declare(*texts)), [flow])
    assert verdicts(ledger) == {verdict: 23}


APART = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: apart}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{namespaces: {}}]}]
"""


def test_what_a_pod_sends_to_itself_past_its_interface_went_through_a_service() -> None:
    for text, verdict in ((APART, "denied"), (ONLY_MYSQL, "allowed")):
        ledger = make()
        epoch(ledger, present(declare(text)), [out(WEB_ADDRESS, 80)])
        assert verdicts(ledger) == {verdict: 23}


def test_why_nothing_is_known_is_counted() -> None:
    ledger = make()
    flows = [
        Flow("203.0.113.5", local_port=1, seen=ACK),
        Flow("203.0.113.5", local_port=2, seen=ACK),
        Flow("203.0.113.5", ICMP, 0, 0),
    ]
    epoch(ledger, present(declare(ONLY_MYSQL)), flows)
    view = ledger.view()[UNKNOWN_VERDICTS]
    counts = {x.cause: c for x, (c,) in zip(view.labels, view.values.tolist(), strict=True)}
    assert counts == {"unknown initiator": 2, "protocol": 1}


def test_both_ends_are_judged_where_both_are_here_and_denials_counted_at_the_end_that_denies() -> (
    None
):
    ledger = make()
    both = [
        out(DB_ADDRESS, 3306),
        Flow(WEB_ADDRESS, local_port=3306, remote_port=40123, ifindex=9, local=DB_ADDRESS,
             seen=to_here(SYN), first_direction=1, bytes=(0, 23), packets=(0, 1)),
    ]  # fmt: skip
    epoch(ledger, present(declare(NOTHING_INTO_DB)), both)
    assert verdicts(ledger) == {"denied": 46}
    (labels,) = denied(ledger)
    assert (labels.workload, labels.direction, labels.policy) == ("db", "ingress", "shop/db-closed")
    assert [event.labels.pod for event in due_events(ledger)] == ["db-0"]


def test_a_far_pod_is_judged_at_our_end_only() -> None:
    ledger = make()
    closed = NOTHING_INTO_DB.replace("app: db", "app: far")
    epoch(ledger, present(declare(closed)), [out(FAR_ADDRESS, 80)])
    assert verdicts(ledger) == {"undeclared": 23}


def test_an_endpoint_without_a_name_is_unknown_as_a_peer_too() -> None:
    nameless = Owner("pod", "unknown", "unknown", "unknown", "node", "unknown")
    ledger = make()
    epoch(ledger, present(declare(WEB_FROM_FAR), who(nameless)), [into(FAR_ADDRESS, 80)])
    assert verdicts(ledger) == {"unknown": 23}


def test_a_service_is_judged_by_the_pod_behind_it_and_its_port() -> None:
    def translate(tuples: Tuples) -> Translations:
        n = len(tuples.protocol)
        address = np.tile(words(DB_ADDRESS), (n, 1))
        return Translations(np.ones(n, np.bool_), address, np.full(n, 3306, np.uint16))

    to_db = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 3306}]}]
"""
    ledger = make()
    at = present(declare(to_db))._replace(translate=translate)
    epoch(ledger, at, [out("198.18.0.3", 13306)])
    assert verdicts(ledger) == {"allowed": 23}
    labels = next(iter(ledger.view()[FLOWS].labels))
    assert (labels.peer_kind, labels.port) == ("service", "13306")
    ledger = make()  # which is unknown pod it was: it may be another port, too
    epoch(ledger, at._replace(translate=present(declare()).translate), [out("198.18.0.3", 13306)])
    assert verdicts(ledger) == {"unknown": 23}


def test_a_verdict_changes_for_what_comes_after_and_no_counter_goes_down() -> None:
    ledger = make()
    flow = out("203.0.113.10", 3306)
    epoch(ledger, present(declare()), [flow])
    assert [event.labels.verdict for event in due_events(ledger)] == ["undeclared"]
    strict = present(declare(ONLY_MYSQL), now_ns=2 * SECOND)
    more = flow._replace(seen=from_here(ACK))
    epoch(ledger, strict, [more])  # moved before anybody had heard of the policy
    assert verdicts(ledger) == {"undeclared": 46}
    epoch(ledger, strict._replace(now_ns=3 * SECOND), [more])
    assert verdicts(ledger) == {"undeclared": 46, "denied": 23}
    assert list(denied(ledger).values()) == [1]
    (event,) = due_events(ledger, 3 * SECOND)
    assert (event.labels.verdict, event.connections, event.egress_bytes) == ("denied", 1, 23)
    epoch(ledger, present(declare(), now_ns=4 * SECOND), [more])
    epoch(ledger, present(declare(), now_ns=5 * SECOND), [more])
    assert verdicts(ledger) == {"undeclared": 69, "denied": 46}
    view = ledger.view()[FLOWS]
    assert sum(connections for *_, connections in view.values.tolist()) == 1


def test_what_stays_denied_by_the_same_policy_is_not_counted_again() -> None:
    """Another rule may have come nearest: that is another reason, and no other denial."""
    ledger = make()
    flow = out("198.18.7.7", 3306)
    epoch(ledger, present(declare(ONLY_MYSQL)), [flow])
    edited = declare(ONLY_MYSQL.replace("203.0.113.0/24, except: [203.0.113.10/32]", "10.0.0.0/8"))
    more = flow._replace(seen=from_here(ACK))
    for second in (2, 3):
        epoch(ledger, present(edited, now_ns=second * SECOND), [more])
    due = [each.labels for each in due_events(ledger, 3 * SECOND)]
    assert len({labels.reason for labels in due if labels.verdict == "denied"}) == 2
    assert list(denied(ledger).values()) == [1]


def test_what_was_judged_before_a_start_stays_so_until_all_policies_are_heard_of() -> None:
    ledger = make()
    flow = out("203.0.113.10", 3306)
    epoch(ledger, present(declare(ONLY_MYSQL)), [flow])
    more = flow._replace(seen=from_here(ACK))
    unheard = declare(UNREADABLE)._replace(unsynced=True)
    for second in (2, 3):
        epoch(ledger, present(unheard, now_ns=second * SECOND), [more])
    assert verdicts(ledger) == {"denied": 69}
    for second in (4, 5):
        epoch(ledger, present(declare(), now_ns=second * SECOND), [more])
    assert verdicts(ledger) == {"denied": 92, "undeclared": 23}


def test_a_peers_new_labels_count_for_what_comes_after() -> None:
    ledger, declared = make(), declare(WEB_FROM_FAR)
    flow = into(FAR_ADDRESS, 80)
    epoch(ledger, present(declared), [flow])
    other = FAR._replace(labels=(("app", "near"),))
    relabelled = present(declared, who(other), 2 * SECOND)
    more = flow._replace(seen=to_here(ACK))
    epoch(ledger, relabelled, [])
    epoch(ledger, relabelled._replace(now_ns=3 * SECOND), [more])
    assert verdicts(ledger) == {"allowed": 23, "denied": 23}


def test_labels_of_namespaces_count() -> None:
    text = WEB_FROM_FAR.replace(
        "podSelector: {matchLabels: {app: far}}", "namespaceSelector: {matchLabels: {team: a}}"
    )
    ledger, at = make(), present(declare(text))
    epoch(ledger, at._replace(cluster_labels=ClusterLabels("n1", {"shop": (("team", "a"),)}, {}, True)),
          [into(FAR_ADDRESS, 80)])  # fmt: skip
    epoch(ledger, at._replace(cluster_labels=ClusterLabels("", {}, {}, False)), [])
    epoch(
        ledger,
        at._replace(cluster_labels=ClusterLabels("", {}, {}, False)),
        [into(FAR_ADDRESS, 81)],
    )
    assert verdicts(ledger) == {"allowed": 23, "unknown": 23}


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


def test_the_flow_log_tells_why() -> None:
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

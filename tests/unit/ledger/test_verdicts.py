# SPDX-License-Identifier: Apache-2.0
"""What policy says of connections, as the ledger books it: verdicts, denials, events."""

import numpy as np
import pytest

from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import Owner
from podtally.ledger.metrics.families import FLOWS, UNKNOWN_VERDICTS
from podtally.ledger.series.label_sets import DeniedLabels
from podtally.netlink.conntrack import Translations, Tuples
from tests.unit.rows import (
    ACK,
    ICMP,
    SECOND,
    SYN,
    UDP,
    Flow,
    from_here,
    to_here,
    words,
)
from tests.unit.verdict_support import (
    DB_ADDRESS,
    FAR,
    FAR_ADDRESS,
    NOTHING_INTO_DB,
    ONLY_MYSQL,
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
    who,
)

UNREADABLE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: shop}
spec: {podSelector: 7}
"""


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


def test_what_was_judged_before_a_start_stays_until_all_policies_are_synced() -> None:
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

# SPDX-License-Identifier: Apache-2.0
"""ledger/outcomes/audit_booking.py: what accuses no one, and what hides nothing from the audit."""

from collections import Counter

from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.outcome_families import AUDIT, ENFORCEMENT
from podtally.ledger.outcomes.policy_changes import PolicyChanges
from podtally.ledger.verdicts.verdicts import FOREIGN_SOURCE
from podtally.policy.model import PodSubject, Policy
from tests.unit.rows import ACK, RST, SECOND, SYN, UDP, Flow, from_here, to_here
from tests.unit.verdict_support import (
    DB_ADDRESS,
    FAR_ADDRESS,
    NOTHING_INTO_DB,
    ONLY_MYSQL,
    WEB_ADDRESS,
    WEB_FROM_FAR,
    declare,
    due_events,
    epoch,
    into,
    make,
    out,
    present,
)

OPEN = from_here(SYN) | to_here(SYN | ACK) | from_here(ACK)
ELSEWHERE = NOTHING_INTO_DB.replace("namespace: shop", "namespace: elsewhere")


def results(ledger: Ledger) -> dict[str, int]:
    labels, values = ledger.view()[ENFORCEMENT]
    return Counter({each.result: n for each, (n,) in zip(labels, values.tolist(), strict=True)})


def by_policy(ledger: Ledger) -> dict[tuple[str, ...], int]:
    labels, values = ledger.view()[AUDIT]
    return {
        (each.policy, each.direction, each.result, each.ends): n
        for each, (n,) in zip(labels, values.tolist(), strict=True)
    }


def findings(ledger: Ledger, now_ns: int = 99 * SECOND) -> list[str]:
    verdicts = (each.labels.verdict for each in due_events(ledger, now_ns))
    return [each for each in verdicts if each in ("not_enforced", "blocked")]


def answered(remote: str, port: int, local_port: int = 40123) -> Flow:
    return out(remote, port, local_port)._replace(seen=OPEN, packets=(2, 2))


# -- false alarms ---------------------------------------------------------------------------


def test_datagrams_between_two_servers_are_no_answer() -> None:
    """A gossip: the denied one is dropped, and the peer sends on its own, which is allowed."""
    ledger = make()
    gossip = Flow("198.18.7.7", UDP, 7946, 7946, packets=(3, 2))
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=5 * SECOND), [gossip])
    assert results(ledger) == {"inconclusive": 1}
    assert findings(ledger) == []


def test_a_service_without_endpoints_is_not_blocked() -> None:
    """kube-proxy rejects it on the node, by an ICMP error of the node."""
    every = ONLY_MYSQL[: ONLY_MYSQL.index("  egress:")] + "  egress: [{}]\n"
    ledger, at = make(), present(declare(every), now_ns=SECOND)
    epoch(ledger, at, [out("198.18.0.3", 3306)])
    row = ledger.connections.columns
    row.progress["facts"] |= 32 | 64  # rejected, by another host
    row.progress["icmp"] = 3 << 8 | 3
    for second in range(2, 8):
        epoch(ledger, at._replace(now_ns=second * SECOND), [])
    assert results(ledger) == {"unavailable": 1}
    assert findings(ledger) == []


def test_a_terminating_pod_that_no_longer_answers_is_no_finding_once_it_has_no_owner() -> None:
    ledger = make()
    every = WEB_FROM_FAR.replace("ingress:", "policyTypes: [Egress]\n  egress: [{}]\n  #")
    gone = out("10.99.3.99", 80)._replace(packets=(4, 0))
    epoch(ledger, present(declare(every)), [gone])
    ledger.connections.columns.progress["retries"] = 3
    for second in range(2, 60):
        epoch(ledger, present(declare(every), now_ns=second * SECOND), [])
    assert results(ledger) == {"inconclusive": 1}
    assert findings(ledger) == []


# -- changes of policies ----------------------------------------------------------------------


def test_changes_in_another_namespace_suspend_nothing() -> None:
    """A tenant that changes its own policies all the time hides what its neighbours' are worth."""
    ledger = make()
    for second in range(1, 20):
        texts = (ONLY_MYSQL, ELSEWHERE) if second % 2 else (ONLY_MYSQL,)
        row = answered("198.18.7.7", 3306, second)._replace(first_seen_ns=second * SECOND)
        epoch(ledger, present(declare(*texts), now_ns=second * SECOND), [row])
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=30 * SECOND), [])
    assert results(ledger) == {"not_enforced": 19}


def test_a_policy_that_is_read_a_little_late_is_no_finding() -> None:
    """It was deleted: the plugin lets the connection through before we know."""
    ledger, row = make(), answered("198.18.7.7", 3306)
    epoch(ledger, present(declare(ONLY_MYSQL)), [row])
    for second in range(2, 30):
        epoch(ledger, present(declare(), now_ns=second * SECOND), [])
    assert results(ledger).get("not_enforced", 0) == 0
    assert findings(ledger) == []


def policy(namespace: str, name: str = "one") -> Policy:
    return Policy("NetworkPolicy", namespace, name, PodSubject(None))


def test_a_namespaces_connections_count_from_ten_seconds_after_a_change_on() -> None:
    changes = PolicyChanges()
    changes.learn((policy("a"), policy("b")), SECOND)
    assert not changes  # what is in force at the start has been for long
    changes.learn((policy("a", "two"), policy("b")), 2 * SECOND)
    assert (changes.settled_ns("a"), changes.settled_ns("b")) == (12 * SECOND, 0)
    changes.learn((policy("a", "two"),), 3 * SECOND)  # one that is removed is a change, too
    assert (changes.settled_ns("a"), changes.settled_ns("b")) == (12 * SECOND, 13 * SECOND)
    changes.learn((policy("a", "two"), policy("")), 4 * SECOND)  # of the whole cluster
    assert {changes.settled_ns(each) for each in "abc"} == {14 * SECOND}
    same = (policy("a", "two"), policy(""))
    changes.learn(same, 400 * SECOND)
    assert not changes


# -- the other end ----------------------------------------------------------------------------


def test_what_is_dropped_before_a_servers_interface_counts_for_its_policy_at_the_client() -> None:
    ledger, at = make(), present(declare(NOTHING_INTO_DB), now_ns=SECOND)
    epoch(ledger, at, [out(DB_ADDRESS, 3306, 4001)])
    for second in range(2, 14):
        epoch(ledger, at._replace(now_ns=second * SECOND), [])
    assert by_policy(ledger) == {("shop/db-closed", "ingress", "enforced", "both"): 1}
    assert results(ledger) == {}  # that is by the endpoint which policies isolate


def test_what_gets_through_counts_at_the_server_only() -> None:
    ledger, at = make(), present(declare(NOTHING_INTO_DB), now_ns=5 * SECOND)
    client = answered(DB_ADDRESS, 3306, 4001)
    server = Flow(WEB_ADDRESS, local_port=3306, remote_port=4001, ifindex=9, local=DB_ADDRESS,
                  seen=to_here(SYN) | from_here(SYN | ACK) | to_here(ACK), first_direction=1)  # fmt: skip
    epoch(ledger, at, [client, server])
    assert by_policy(ledger) == {("shop/db-closed", "ingress", "not_enforced", "both"): 1}


def test_one_end_is_distinguished_from_both() -> None:
    ledger = make()
    epoch(
        ledger,
        present(declare(ONLY_MYSQL), now_ns=5 * SECOND),
        [answered(DB_ADDRESS, 80), answered(FAR_ADDRESS, 80)],
    )
    assert by_policy(ledger) == {
        ("shop/only-mysql", "egress", "not_enforced", each): 1 for each in ("both", "one")
    }


# -- attackers ----------------------------------------------------------------------------------


def test_an_answer_that_another_pod_forges_accuses_no_one() -> None:
    """The pod's SYN is dropped, and its neighbour db answers in the name of the destination."""
    ledger, at = make(), present(declare(ONLY_MYSQL), now_ns=5 * SECOND)
    forged = Flow(WEB_ADDRESS, local="198.18.7.7", local_port=3306, remote_port=40123, ifindex=9,
                  seen=from_here(SYN | ACK), packets=(1, 0))  # fmt: skip
    epoch(ledger, at, [answered("198.18.7.7", 3306), forged])
    assert results(ledger)["not_enforced"] == 0
    assert findings(ledger) == []
    reasons = [each.reason for _, each in ledger.events.table.pairs()]
    assert sorted(each.endswith(FOREIGN_SOURCE) for each in reasons) == [False, True]


def test_a_forged_answer_to_others_hides_no_finding() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL), now_ns=5 * SECOND)
    forged = Flow(WEB_ADDRESS, local="198.18.7.7", local_port=3306, remote_port=40999, ifindex=9,
                  seen=from_here(SYN | ACK), packets=(1, 0))  # fmt: skip
    epoch(ledger, at, [answered("198.18.7.7", 3306), forged])
    assert results(ledger)["not_enforced"] == 1


def test_a_syn_ack_without_a_question_makes_no_connection() -> None:
    """A pod sends a SYN/ACK to one that did not ask, which resets it."""
    ledger, at = make(), present(declare(WEB_FROM_FAR), now_ns=SECOND)
    row = into("198.18.7.7", 80)._replace(seen=from_here(SYN | ACK) | to_here(RST), packets=(1, 1))
    epoch(ledger, at, [row._replace(first_direction=0)])
    for second in range(2, 8):
        epoch(ledger, at._replace(now_ns=second * SECOND), [])
    assert findings(ledger) == []
    assert results(ledger)["not_enforced"] == 0


def test_a_syn_ack_before_its_own_syn_does_not_hide_a_connection_that_works() -> None:
    ledger, at = make(), present(declare(ONLY_MYSQL), now_ns=5 * SECOND)
    epoch(ledger, at, [answered("198.18.7.7", 3306)._replace(seen=OPEN | from_here(SYN | ACK))])
    assert results(ledger) == {"not_enforced": 1}


def test_a_syn_of_the_server_does_not_hide_a_connection_that_works() -> None:
    """The peer, which is the attacker's, sends a SYN to the client's port as well."""
    ledger, at = make(), present(declare(ONLY_MYSQL), now_ns=5 * SECOND)
    for seen in (OPEN | to_here(SYN), OPEN | to_here(SYN) | from_here(SYN | ACK)):
        row = answered("198.18.7.7", 3306, len(results(ledger)) + 7)
        epoch(ledger, at, [row._replace(seen=seen)])
    assert sum(results(ledger).values()) == results(ledger)["not_enforced"]

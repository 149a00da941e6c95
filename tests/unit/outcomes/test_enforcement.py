# SPDX-License-Identifier: Apache-2.0
"""outcomes/enforcement.py, ledger/outcomes/audit_events.py, commands/audit.py: are verdicts enforced?"""

import json
from typing import NamedTuple

import numpy as np
import pytest

from podtally.api.schema import Audit, AuditedPolicy, AuditFinding, AuditSums
from podtally.commands.audit import audit_report
from podtally.ledger.metrics.outcome_families import AUDIT, ENFORCEMENT
from podtally.outcomes import decision, enforcement
from podtally.outcomes.enforcement import (
    ALLOWED,
    DENIED,
    DENIED_BY_PEER,
    PEER_OUTSIDE,
    PEER_SERVICE,
    RESULTS,
    AuditInput,
)
from podtally.outcomes.progress import PROGRESS, RELAYED
from tests.unit.api.test_api import Served, ask, serve
from tests.unit.lookup_host import Host, shop
from tests.unit.rows import ACK, ICMP, RST, SECOND, SYN, TCP, UDP, from_here, to_here
from tests.unit.verdict_support import ONLY_MYSQL, declare, due_events, epoch, make, out, present

EGRESS, INGRESS = 0, 1


class Case(NamedTuple):
    stance: int
    outcome: str
    result: str
    opener: int = EGRESS
    protocol: int = TCP
    icmp: tuple[int, int] = (0, 0)
    relayed: bool = False
    retries: int = 0
    ipv6: bool = False
    client_port: int = 40123
    forged: bool = False


PROHIBITED, HOST_UNREACHABLE, PORT_UNREACHABLE = (3, 13), (3, 1), (3, 3)
CASES = [
    Case(0, "established", ""),
    Case(PEER_OUTSIDE, "unanswered", "", retries=3),
    Case(DENIED, "established", "not_enforced"),
    Case(DENIED | PEER_OUTSIDE, "established", "not_enforced"),
    Case(DENIED, "answered", "not_enforced", protocol=UDP),
    Case(DENIED, "half_open", "not_enforced"),
    # Both ends of a gossip or a VPN send from the server's port: two openings, or an answer?
    Case(DENIED, "answered", "inconclusive", protocol=UDP, client_port=7946),
    Case(DENIED, "answered", "inconclusive", protocol=ICMP, client_port=0),
    Case(DENIED, "established", "not_enforced", client_port=1023),
    # Another pod of the host sends in the peer's name.
    Case(DENIED, "established", "inconclusive", forged=True),
    Case(DENIED, "answered", "inconclusive", protocol=UDP, forged=True),
    Case(DENIED, "half_open", "inconclusive", forged=True),
    Case(DENIED, "refused", "not_enforced", INGRESS, forged=True),
    Case(DENIED, "refused", "enforced", forged=True),
    Case(DENIED, "unanswered", "enforced"),
    Case(DENIED, "refused", "enforced"),
    Case(DENIED, "rejected", "enforced", icmp=PROHIBITED),
    Case(DENIED, "unknown", "inconclusive"),
    # The protected endpoint has answered itself, if only to refuse.
    Case(DENIED, "refused", "not_enforced", INGRESS),
    Case(DENIED, "rejected", "not_enforced", INGRESS, UDP, PORT_UNREACHABLE),
    Case(DENIED, "unanswered", "enforced", INGRESS),
    Case(ALLOWED, "established", "passed"),
    Case(ALLOWED, "refused", "passed"),
    Case(ALLOWED, "unanswered", "inconclusive"),  # one SYN: the client had no patience
    Case(ALLOWED, "unanswered", "blocked", retries=1),
    Case(ALLOWED | PEER_OUTSIDE, "unanswered", "inconclusive", retries=5),
    Case(ALLOWED | PEER_OUTSIDE, "unanswered", "blocked", INGRESS, retries=1),
    Case(ALLOWED, "unanswered", "inconclusive", protocol=UDP),
    Case(ALLOWED, "rejected", "blocked", icmp=PROHIBITED),
    Case(ALLOWED, "rejected", "inconclusive", icmp=HOST_UNREACHABLE, relayed=True),
    Case(ALLOWED, "rejected", "blocked", icmp=PORT_UNREACHABLE),
    Case(ALLOWED, "rejected", "passed", protocol=UDP, icmp=PORT_UNREACHABLE),
    Case(ALLOWED, "rejected", "blocked", protocol=UDP, icmp=PORT_UNREACHABLE, relayed=True),
    Case(ALLOWED, "rejected", "blocked", icmp=(1, 1), ipv6=True),
    Case(ALLOWED, "rejected", "inconclusive", icmp=(1, 0), ipv6=True),
    Case(ALLOWED, "rejected", "passed", protocol=UDP, icmp=(1, 4), ipv6=True),
    Case(ALLOWED, "rejected", "inconclusive", icmp=(11, 0), relayed=True),
    # A Service without endpoints, as kube-proxy rejects it on the node.
    Case(ALLOWED | PEER_SERVICE, "rejected", "unavailable", icmp=PORT_UNREACHABLE, relayed=True),
    Case(ALLOWED | PEER_SERVICE, "rejected", "unavailable", icmp=(1, 4), relayed=True, ipv6=True),
    Case(ALLOWED | PEER_SERVICE, "rejected", "unavailable", protocol=UDP, icmp=PORT_UNREACHABLE),
    Case(ALLOWED | PEER_SERVICE, "rejected", "blocked", icmp=PROHIBITED, relayed=True),
    Case(ALLOWED | PEER_SERVICE, "unanswered", "blocked", retries=1),
    Case(DENIED | PEER_SERVICE, "rejected", "enforced", icmp=PORT_UNREACHABLE, relayed=True),
    # A load balancer's health check that only half opens a connection has found the server.
    Case(ALLOWED, "half_open", "passed", INGRESS),
    Case(DENIED_BY_PEER, "unanswered", ""),
    Case(DENIED_BY_PEER, "established", ""),
]


@pytest.mark.parametrize("case", CASES)
def test_results(case: Case) -> None:
    progress = np.zeros(1, PROGRESS)
    progress["icmp"], progress["retries"] = case.icmp[0] << 8 | case.icmp[1], case.retries
    progress["facts"] = RELAYED if case.relayed else 0
    given = AuditInput(
        stance=np.array([case.stance], np.uint8),
        outcome=np.array([decision.OUTCOMES.index(case.outcome)], np.uint8),
        opener=np.array([case.opener]),
        protocol=np.array([case.protocol], np.uint8),
        is_ipv6=np.array([case.ipv6]),
        progress=progress,
        client_port=np.array([case.client_port], np.uint16),
        forged=np.array([case.forged]),
    )
    assert [RESULTS[i] for i in enforcement.results(given)] == [case.result]


OPEN = from_here(SYN | ACK) & ~from_here(SYN | ACK) | from_here(SYN) | from_here(ACK)
OPEN |= to_here(SYN | ACK)


def audited() -> tuple[Served, Host]:
    """An agent that saw one denied connection work, and two allowed ones."""
    host, ledger = shop(), make()
    host.declare(ONLY_MYSQL)
    denied = out("198.18.7.7", 3306)
    allowed = [out("203.0.113.9", 3306, port) for port in (1, 2)]
    rows = [each._replace(seen=OPEN, packets=(2, 2)) for each in (denied, *allowed)]
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=5 * SECOND), rows)
    return serve(host.answers, ledger.view()), host


def test_the_command_exits_with_findings() -> None:
    served, _ = audited()
    try:
        code, text, err = ask(served, "audit")
        assert (code, err) == (1, "")
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert lines[1].startswith("not_enforced shop/web egress ")
        assert lines[1].endswith(" tcp 3306 denied 1")
        assert lines[4] == "shop/only-mysql 3 1 0 0 0 2 0 3 -"
        assert [line[: line.index(":")] for line in lines[6:]] == ["not enforced"]
        code, text, _ = ask(served, "audit", "-n", "elsewhere", "-o", "json")
        assert (code, json.loads(text)) == (0, {"policies": [], "findings": [], "limits": []})
    finally:
        served.server.close()


def test_a_finding_is_one_event() -> None:
    ledger, declared = make(), declare(ONLY_MYSQL)
    for second in range(1, 4):
        row = out("198.18.7.7", 3306, 1000 + second)._replace(seen=OPEN)
        epoch(ledger, present(declared, now_ns=second * SECOND), [row])

    epoch(ledger, present(declared, now_ns=8 * SECOND), [])
    (found,) = [
        each for each in due_events(ledger, 9 * SECOND) if each.labels.verdict == "not_enforced"
    ]
    assert (found.connections, found.labels.policy) == (3, "shop/only-mysql")
    assert found.labels.peer_address == "198.18.7.7"
    words, _, shown = found.labels.reason.partition(": ")
    assert words == "denied by policy, yet the handshake was completed"
    assert shown.startswith("10.99.0.7:100")
    assert shown.endswith(" with 198.18.7.7:3306, packets: 1 sent, 0 received")


def test_a_finding_is_the_same_event_after_a_restart() -> None:
    ledger, declared = make(), declare(ONLY_MYSQL)
    row = out("198.18.7.7", 3306)._replace(seen=OPEN)
    epoch(ledger, present(declared, now_ns=5 * SECOND), [row])
    restarted = make()
    restarted.load(ledger.save(), 6 * SECOND)
    later = row._replace(local_port=40999, remote="198.18.7.8", first_seen_ns=7 * SECOND)
    epoch(restarted, present(declared, now_ns=11 * SECOND), [later])
    (found,) = [
        each for each in due_events(restarted, 99 * SECOND) if each.labels.verdict == "not_enforced"
    ]
    assert (found.connections, found.labels.peer_address) == (2, "198.18.7.7")


def test_what_began_before_a_change_of_policies_could_be_enforced_proves_nothing() -> None:
    ledger = make()
    epoch(ledger, present(declare()), [])
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=2 * SECOND), [])
    for second in (3, 11, 13):
        row = out("198.18.7.7", 3306, second)._replace(seen=OPEN, first_seen_ns=second * SECOND)
        epoch(ledger, present(declare(ONLY_MYSQL), now_ns=second * SECOND), [row])
    epoch(ledger, present(declare(ONLY_MYSQL), now_ns=20 * SECOND), [])

    labels, values = ledger.view()[ENFORCEMENT]
    found = {each.result: n for each, (n,) in zip(labels, values.tolist(), strict=True)}
    assert found == {"inconclusive": 2, "not_enforced": 1}


def test_a_refused_scan_of_what_is_allowed_raises_nothing() -> None:
    ledger, declared = make(), declare(ONLY_MYSQL)
    rows = [
        out("203.0.113.9", 3306, port)._replace(seen=from_here(SYN) | to_here(RST | ACK))
        for port in range(1, 50)
    ]
    epoch(ledger, present(declared), rows)
    for second in range(2, 10):
        epoch(ledger, present(declared, now_ns=second * SECOND), [])

    labels, values = ledger.view()[ENFORCEMENT]
    assert [(each.result, n) for each, (n,) in zip(labels, values.tolist(), strict=True)] == [
        ("passed", 49)
    ]
    assert not [each for each in due_events(ledger, 9 * SECOND) if "blocked" in each.labels.verdict]
    assert int(ledger.view()[AUDIT].values.sum()) == 49


def test_connections_of_several_policies_count_for_each() -> None:
    sums = AuditSums("a/one,a/two,+1", "a", "egress", "denied", "enforced", 5)
    policies = [AuditedPolicy(name, "a") for name in ("a/one", "a/two", "a/three")]
    finding = AuditFinding("a", "web", "egress", "pod", "a", "db", "tcp", "80", "x", "blocked", 1)

    report = audit_report(Audit(policies, [sums], [finding]), "a")

    assert {line.policy: line.judged for line in report.policies} == {
        "a/one": 5, "a/two": 5, "a/three": 0,
    }  # fmt: skip
    assert report.findings == [finding]


def test_a_denied_event_says_once_more_what_became_of_its_connections() -> None:
    ledger, declared = make(), declare(ONLY_MYSQL)
    refused = out("198.18.7.7", 3306)._replace(seen=from_here(SYN) | to_here(RST | ACK))
    epoch(ledger, present(declared), [refused])
    (first,) = due_events(ledger, SECOND)
    assert (first.labels.verdict, first.outcomes) == ("denied", {})
    for second in range(2, 8):
        epoch(ledger, present(declared, now_ns=second * SECOND), [])
    assert due_events(ledger, 9 * SECOND) == []  # not before the interval has passed
    restarted = make()
    restarted.load(ledger.save(), 9 * SECOND)
    (again,) = due_events(restarted, 70 * SECOND)
    assert (again.connections, again.new_connections, again.outcomes) == (1, 0, {"refused": 1})
    assert due_events(restarted, 7000 * SECOND) == []


def test_an_undeclared_event_has_no_second_line_for_its_outcome() -> None:
    ledger = make()
    epoch(ledger, present(declare()), [out("198.18.7.7", 3306)._replace(seen=OPEN)])
    (only,) = due_events(ledger, SECOND)
    assert (only.labels.verdict, only.outcomes) == ("undeclared", {"established": 1})
    assert due_events(ledger, 7000 * SECOND) == []

# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name in the ledger: verdicts, counts, events and reasons, from DNS answers."""

from typing import Any

import numpy as np
import pytest

from podtally.dns.domain_table import NO_DOMAINS
from podtally.dns.known_names import ENCRYPTED_DNS, MESSAGES_LOST
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.tracker import Answer
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import CANDIDATES, EXPIRED, UNDECIDED
from podtally.ledger.series.label_sets import ExpiredLabels
from tests.unit.dns_messages import RESOLVER, mapped
from tests.unit.rows import SECOND, SYN, Flow, book, to_here
from tests.unit.verdict_support import (
    DB_ADDRESS,
    WEB_ADDRESS,
    denied,
    due_events,
    make,
    out,
    present,
    verdicts,
)
from tests.unit.verdict_support import declare as declare_policies

WEB = 7  # the interface
API, OTHER = "203.0.113.7", "203.0.113.8"
ROGUE = mapped("10.99.0.66")
PAYMENTS = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: payments}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - action: Accept
    to: [{domainNames: ["*.stripe.com"]}]
  - action: Deny
    to: [{networks: [0.0.0.0/0]}]
"""
RULE = "ClusterNetworkPolicy/payments egress[0]"


def answer(
    name: str = "api.stripe.com", at: float = 1.0, address: str = API, **changes: object
) -> Answer:
    made = Answer(WEB, int(at * SECOND), RESOLVER, name, (), (mapped(address),), 30)
    return made._replace(**changes)  # type: ignore[arg-type]


def at(
    *answers: Answer, now: float = 100.0, missing: int = 0, policy: str = PAYMENTS
) -> EpochContext:
    table = NO_DOMAINS.updated(answers, int(now * SECOND))
    domains = DomainInputs(
        table=table, trusted=table.trust({RESOLVER}), missing=missing, is_on=True
    )
    context = present(declare_policies(policy), now_ns=int(now * SECOND))
    return context._replace(domains=domains)


def connection(address: str = API, at: float = 13.0, port: int = 40123) -> Flow:
    return out(address, 443, local_port=port)._replace(first_seen_ns=int(at * SECOND))


def epoch(ledger: Ledger, context: EpochContext, *flows: Flow) -> None:
    ledger.begin()
    if flows:
        book(ledger, context, list(flows), context.now_ns)
    ledger.settle(context, ())


def ended(context: EpochContext, *flows: Flow) -> ClosedConnections:
    ledger = make()
    ledger.begin()
    book(ledger, context, list(flows), context.now_ns)
    (over,) = ledger.settle(context, [WEB])
    return over


def test_a_connection_to_a_name_that_was_asked_for_is_allowed() -> None:
    ledger = make()
    epoch(ledger, at(answer()), connection(), connection(OTHER, port=2))
    assert verdicts(ledger) == {"allowed": 23, "denied": 23}
    assert list(denied(ledger).values()) == [1]


def test_the_answer_counts_from_its_time_on() -> None:
    ledger = make()
    epoch(ledger, at(answer(at=13.5)), connection(at=13.0), connection(at=14.0, port=2))
    assert verdicts(ledger) == {"allowed": 23, "denied": 23}


@pytest.mark.parametrize("changes", [{"endpoint": 9}, {"resolver": ROGUE}, {"is_hint": True}])
def test_answers_that_do_not_count(changes: dict[str, Any]) -> None:
    ledger = make()
    epoch(ledger, at(answer(**changes)), connection())
    assert verdicts(ledger) == {"denied": 23}


def test_without_all_dns_seen_it_is_unknown_with_the_cause() -> None:
    ledger = make()
    epoch(ledger, at(missing=MESSAGES_LOST), connection())
    assert verdicts(ledger) == {"unknown": 23}
    assert [each.cause for each in ledger.view()[UNDECIDED].labels] == ["names"]
    (event,) = due_events(ledger)
    assert event.labels.reason == (
        f"{RULE}: whether *.stripe.com resolves to {API} is unknown: DNS messages were lost"
    )
    ledger = make()
    epoch(ledger, at(answer(), missing=ENCRYPTED_DNS), connection())
    assert verdicts(ledger) == {"allowed": 23}


def test_reasons_carry_the_evidence_of_each_connection() -> None:
    over = ended(at(answer()), connection(at=13.0), connection(at=14.0, port=2))
    assert sorted(over.reasons) == [
        f"{RULE}: api.stripe.com, queried 12 s before, TTL 30",
        f"{RULE}: api.stripe.com, queried 13 s before, TTL 30",
    ]


def test_an_expired_answer_is_counted_reported_and_in_the_reason() -> None:
    ledger, now = make(), at(answer())
    flows = [connection(at=71.0), connection(at=75.0, port=2), connection(at=13.0, port=3)]
    epoch(ledger, now, *flows)
    assert verdicts(ledger) == {"allowed": 69}
    view = ledger.view()[EXPIRED]
    assert view.labels == [
        ExpiredLabels("shop", "web", "tcp", "443", "ClusterNetworkPolicy/payments")
    ]
    assert view.values.tolist() == [[2]]
    (event,) = due_events(ledger, now.now_ns)
    assert (event.labels.verdict, event.connections) == ("expired", 2)
    assert event.labels.policy == "ClusterNetworkPolicy/payments"
    assert event.labels.reason == (
        f"{RULE}: the answer for api.stripe.com had expired; denied where the TTLs of DNS answers "
        "are enforced"
    )
    over = ended(now, flows[0])
    assert over.reasons == [
        f"{RULE}: api.stripe.com, queried 70 s before, TTL 30, expired 40 s before; denied where "
        "the TTLs of DNS answers are enforced"
    ]
    (account,) = over.accounts.values()
    assert account.judgement.strict == "denied"


def test_an_event_of_expired_names_stays_one_when_names_change() -> None:
    ledger = make()
    epoch(ledger, at(answer(), now=100.0), connection(at=71.0))
    epoch(ledger, at(answer(), now=101.0), connection(at=99.0, port=2))
    (event,) = due_events(ledger, 101 * SECOND)
    assert event.connections == 2


def test_an_answer_that_comes_later_changes_nothing_that_was_judged() -> None:
    """An open connection keeps its verdict when its answer expires, or another one comes."""
    ledger = make()
    epoch(ledger, at(answer(), now=14.0), connection(at=13.0))
    later = at(answer(), answer("www.example.com", at=90.0), now=100.0)
    epoch(ledger, later, connection(at=13.0)._replace(bytes=(46, 0), packets=(2, 0)))
    assert set(verdicts(ledger)) == {"allowed"}
    assert not len(ledger.view()[EXPIRED].labels)


def test_candidates_are_judged_by_names_too() -> None:
    ledger = make()
    context = at(answer(), policy=PAYMENTS)
    stricter = PAYMENTS.replace("*.stripe.com", "files.stripe.com")
    declared = declare_policies(PAYMENTS, candidates=[stricter])
    epoch(ledger, context._replace(declared=declared), connection())
    (labels,) = ledger.view()[CANDIDATES].labels
    assert (labels.verdict, labels.candidate) == ("allowed", "denied")
    assert verdicts(ledger) == {"allowed": 23}


def test_a_changed_policy_is_judged_by_what_was_known_at_the_first_packet() -> None:
    ledger = make()
    epoch(ledger, at(answer(), now=14.0), connection(at=13.0))
    wider = PAYMENTS.replace("*.stripe.com", "*.example.com")
    epoch(ledger, at(answer(), now=15.0, policy=wider))
    more = connection(at=13.0)._replace(bytes=(46, 0), packets=(2, 0))
    epoch(ledger, at(answer(), now=16.0, policy=wider), more)
    assert set(verdicts(ledger)) == {"allowed", "denied"}


def test_many_connections_of_one_pod_are_judged_at_once() -> None:
    names = [
        answer(f"n{n}.stripe.com", address=f"198.19.{n // 250}.{n % 250}")
        for n in range(0, 2000, 2)
    ]
    flows = [connection(f"198.19.{n // 250}.{n % 250}", port=1 + n) for n in range(2000)]
    ledger = make(events=0)
    epoch(ledger, at(*names), *flows)
    assert verdicts(ledger) == {"allowed": 23_000, "denied": 23_000}
    assert np.all(ledger.view()[EXPIRED].values == 0)


def test_a_pod_of_this_host_is_judged_alike_at_both_ends() -> None:
    """What the client asked for counts where its peer's interface shows the connection."""
    ledger = make()
    context = at(answer("db.stripe.com", address=DB_ADDRESS))
    ledger.interfaces.appeared(WEB, "veth7", (0, 0))
    both = [
        out(DB_ADDRESS, 3306)._replace(first_seen_ns=13 * SECOND),
        Flow(WEB_ADDRESS, local_port=3306, remote_port=40123, ifindex=9, local=DB_ADDRESS,
             seen=to_here(SYN), first_direction=1, bytes=(0, 23), packets=(0, 1),
             first_seen_ns=13 * SECOND),
    ]  # fmt: skip
    epoch(ledger, context, *both)
    assert verdicts(ledger) == {"allowed": 46}
    ledger = make()
    ledger.interfaces.appeared(WEB, "veth7", (0, 0))
    epoch(ledger, at(), *both)
    assert verdicts(ledger) == {"denied": 46}

# SPDX-License-Identifier: Apache-2.0
"""ledger/connections/initiator.py: a DHCP server's answer is no opening; the same ports hide nothing else."""

import pytest

from podtally.ledger.metrics.families import FLOWS
from podtally.policy.load.policy_sources import DeclaredPolicies
from tests.unit.rows import SECOND, UDP, Flow
from tests.unit.verdict_support import (
    ONLY_MYSQL,
    WEB_FROM_FAR,
    declare,
    denied,
    due_events,
    epoch,
    make,
    present,
)

NOTHING_OUT = ONLY_MYSQL[: ONLY_MYSQL.index("  egress:")]


def offered(declared: DeclaredPolicies, server: int, client: int) -> list[tuple[str, str]]:
    """Return direction and port of what is denied after a packet to the pod ``web``."""
    ledger = make(undeclared=False)
    address, local = (
        ("203.0.113.1", "10.99.0.7") if server == 67 else ("2001:db8::1", "2001:db8::7")
    )
    offer = Flow(
        address, UDP, client, server, local=local, first_direction=1, packets=(0, 1), bytes=(0, 342)
    )
    epoch(ledger, present(declared, now_ns=5 * SECOND), [offer])
    assert {labels.port for labels in ledger.view()[FLOWS].labels} <= {"67", "547", str(client)}
    assert len(due_events(ledger, 5 * SECOND)) == len(denied(ledger))
    return [(labels.direction, labels.port) for labels in denied(ledger)]


@pytest.mark.parametrize(("server", "client"), [(67, 68), (547, 546)])
def test_an_offer_answers_what_the_client_sent_to_all(server: int, client: int) -> None:
    assert offered(declare(WEB_FROM_FAR), server, client) == []


@pytest.mark.parametrize(("server", "client"), [(67, 68), (547, 546)])
def test_where_the_client_may_ask_no_one_it_is_denied(server: int, client: int) -> None:
    assert offered(declare(WEB_FROM_FAR, NOTHING_OUT), server, client) == [("egress", str(server))]


@pytest.mark.parametrize(("server", "client"), [(67, 69), (68, 67), (547, 68)])
def test_other_ports_are_openings_by_the_peer(server: int, client: int) -> None:
    assert [direction for direction, _ in offered(declare(WEB_FROM_FAR), server, client)] == [
        "ingress"
    ]


def test_what_a_pod_sends_from_a_servers_port_is_its_own_opening() -> None:
    ledger = make(undeclared=False)
    epoch(
        ledger, present(declare(ONLY_MYSQL), now_ns=5 * SECOND), [Flow("203.0.113.1", UDP, 67, 68)]
    )
    assert [(labels.direction, labels.port) for labels in denied(ledger)] == [("egress", "68")]

# SPDX-License-Identifier: Apache-2.0
"""Explanations of the running agent with DNS: domain names, and what a pod's DNS says."""

import time
from dataclasses import replace

import pytest

from podtally.api.dns_lookup import SeenDns
from podtally.dns.domain_table import NO_DOMAINS
from podtally.dns.known_names import MESSAGES_LOST
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.tracker import Answer
from podtally.errors import PodtallyError
from podtally.kernel.captured import HOST
from tests.unit.dns_messages import RESOLVER, mapped
from tests.unit.lookup_host import SECOND, shop
from tests.unit.lookup_host import Host as LookupHost

WEB, API = 7, "203.0.113.7"
PAYMENTS = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: payments}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{domainNames: [api.stripe.com]}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""
UNITS = """\
apiVersion: podtally.io/v1alpha1
kind: HostPolicy
metadata: {name: host}
spec: {host: true, policyTypes: [Egress], egress: [{to: [{domainNames: [api.stripe.com]}]}]}
"""


def answer(address: str = API, ago: float = 12.0, ttl: int = 30, **changes: object) -> Answer:
    at_ns = time.monotonic_ns() - int(ago * SECOND)
    made = Answer(WEB, at_ns, RESOLVER, "api.stripe.com", (), (mapped(address),), ttl)
    return made._replace(**changes)  # type: ignore[arg-type]


def host(*answers: Answer, missing: int = 0, late: tuple[int, ...] = ()) -> LookupHost:
    made, table = shop(), NO_DOMAINS.updated(answers, time.monotonic_ns())
    inputs = DomainInputs(table=table, trusted=table.trust({RESOLVER}), missing=missing, is_on=True)
    made.dns = SeenDns(inputs, dict.fromkeys(late, time.monotonic_ns()))
    made.declare(PAYMENTS, UNITS)
    return made


def test_a_name_is_the_address_of_the_last_answer() -> None:
    found = host(answer(ago=20), answer("203.0.113.9", ago=12)).explain(
        "shop/web", "API.stripe.com."
    )
    assert (found.to, found.verdict, found.strict) == ("203.0.113.9", "allowed", "")
    assert found.reason.startswith(
        "ClusterNetworkPolicy/payments egress[0]: api.stripe.com, queried 12 s"
    )


def test_an_address_has_the_names_that_the_pod_asked_for() -> None:
    assert host(answer()).explain("shop/web", API).verdict == "allowed"
    assert host(answer()).explain("shop/web", "203.0.113.8").verdict == "denied"
    assert host(answer()).explain("shop/db", API).verdict == "denied"


def test_an_expired_answer() -> None:
    found = host(answer(ago=60)).explain("shop/web", API)
    assert (found.verdict, found.strict) == ("allowed", "denied")


@pytest.mark.parametrize(
    ("missing", "late", "why"),
    [
        (MESSAGES_LOST, (), "DNS messages were lost"),
        (0, (WEB,), "it was there before the agent"),
    ],
)
def test_what_is_missing_is_reported(missing: int, late: tuple[int, ...], why: str) -> None:
    found = host(missing=missing, late=late).explain("shop/web", API)
    assert found.verdict == "unknown"
    assert found.reason.endswith(f"is unknown: {why}")


def test_a_day_after_a_loss_all_dns_counts_as_seen() -> None:
    for days, verdict in ((0.9, "unknown"), (1.1, "denied")):
        made, lost_ns = host(), time.monotonic_ns() - int(days * 86_400 * SECOND)
        table = NO_DOMAINS.updated([], lost_ns, missing=[(WEB, MESSAGES_LOST)])
        made.dns = made.dns._replace(inputs=replace(made.dns.inputs, table=table))
        assert made.explain("shop/web", API).verdict == verdict
        made.dns = SeenDns(DomainInputs(is_on=True), {WEB: lost_ns})
        assert made.explain("shop/web", API).verdict == verdict


def test_a_pod_of_another_node_has_its_dns_there() -> None:
    found = host(answer()).explain("shop/web-1", API)
    assert found.reason.endswith("is unknown: its DNS is seen on its own node")
    with pytest.raises(PodtallyError, match=r"shop/web-1 has no DNS answer for 'api\.stripe\.com'"):
        host(answer()).explain("shop/web-1", "api.stripe.com")


def test_without_capture_nothing_is_known() -> None:
    made = shop()
    made.declare(PAYMENTS)
    found = made.explain("shop/web", API)
    assert found.reason.endswith("is unknown: DNS is not captured")


def test_the_host_has_the_dns_of_its_uplinks() -> None:
    found = host(answer(endpoint=HOST)).explain("host", "api.stripe.com")
    assert (found.verdict, found.to) == ("allowed", API)
    found = host(answer(endpoint=HOST)).explain("host", "203.0.113.8")
    assert found.reason.endswith("is unknown: it was there before the agent")


def test_a_name_without_an_answer_is_an_error() -> None:
    with pytest.raises(PodtallyError, match=r"has no DNS answer for 'www\.example\.com'"):
        host(answer()).explain("shop/web", "www.example.com")

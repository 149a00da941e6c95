# SPDX-License-Identifier: Apache-2.0
"""A ledger that judges by policies, and what it counts."""

from collections.abc import Sequence

from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.interface_endpoints import address_number
from podtally.identity.model import FOREVER, Claim, Endpoint, Owner
from podtally.identity.name_table import Names
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.events.events import Due
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import DENIED, FLOWS
from podtally.ledger.series.label_sets import DeniedLabels
from podtally.policy.load.parser import read_text
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import Policy
from tests.unit.rows import (
    FLAGS,
    SECOND,
    SYN,
    Flow,
    book,
    from_here,
    names,
    to_here,
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
    """A connection to web."""
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

# SPDX-License-Identifier: Apache-2.0
"""Marks traffic that the configuration expects: in events, and as a gauge that alerts exclude.

Nothing is booked by it: when an entry's date has passed, the same traffic alerts again.
"""

import datetime
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from podtally.config import ExpectedTraffic
from podtally.ledger.metrics.families import DENIED, FLOWS
from podtally.ledger.metrics.family import Declaration, Section
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import DIRECTIONS, DeniedLabels, FlowLabels
from podtally.policy.model import UNDECLARED

LABELS = (
    *("namespace", "workload", "direction", "peer_kind", "peer_namespace", "peer_workload"),
    *("peer_domain", "protocol", "port"),
)
DECLARED = (
    Section.POLICY,
    Declaration(
        name="podtally_expected_traffic",
        kind="gauge",
        help="Denied or undeclared traffic that `expected` acknowledges; alerts exclude it.",
        note="1 until the entry's date.",
        cardinality="fine: what is acknowledged",
        on_dashboards=False,
    ),
    LABELS,
)


class ComparedTraffic(NamedTuple):
    """What an entry is compared with; the domain in full, or registrable in metrics."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    peer_domain: str
    protocol: str
    port: str


class ExpectedMatcher:
    """The entries in force, by date. In metrics a domain stands for all names below it."""

    def __init__(self, entries: Sequence[ExpectedTraffic]) -> None:
        self._entries = entries

    def __bool__(self) -> bool:
        return bool(self._entries)

    def active(self, today: datetime.date) -> list[ExpectedTraffic]:
        """Return the entries that have not expired."""
        return [each for each in self._entries if today <= each.last_day()]

    def reason(self, traffic: ComparedTraffic, today: datetime.date) -> str:
        """Return why traffic is expected; "": it is not."""
        found = (each.reason for each in self.active(today) if matches(each, traffic))
        return next(found, "")


NOTHING_EXPECTED = ExpectedMatcher(())


def matches(each: ExpectedTraffic, traffic: ComparedTraffic) -> bool:
    if traffic.direction != DIRECTIONS[0]:
        return False
    if not fnmatchcase(f"{traffic.namespace}/{traffic.workload}", each.workload):
        return False
    port, _, protocol = each.port.partition("/")
    if port and (port, protocol.lower() or "tcp") != (traffic.port, traffic.protocol):
        return False
    if each.domain:
        domain = traffic.peer_domain
        return domain == each.domain or domain.endswith(f".{each.domain}")
    if "/" in each.peer:
        return fnmatchcase(f"{traffic.peer_namespace}/{traffic.peer_workload}", each.peer)
    return traffic.peer_kind == "external" and traffic.peer_workload == each.peer


class ExpectedCollector(Collector):
    """Yields the gauge for the series of the latest view that entries match."""

    def __init__(self, matcher: ExpectedMatcher) -> None:
        self.view: View | None = None
        self._matcher = matcher
        self._known: tuple[object, ...] = ()
        self._found: list[ComparedTraffic] = []

    def collect(self) -> Iterator[Metric]:
        declared = DECLARED[1]
        family = GaugeMetricFamily(declared.name, declared.help, labels=LABELS)
        for traffic in self._matching():
            family.add_metric(traffic, 1)
        yield family

    def _matching(self) -> list[ComparedTraffic]:
        """Return what is expected now; looked for again when series or the date change."""
        if self.view is None:
            return []
        today = datetime.datetime.now(datetime.UTC).date()
        denied, flows = self.view[DENIED].labels, self.view[FLOWS].labels
        if (id(denied), id(flows), today) != self._known:
            entries = self._matcher.active(today)
            every = dict.fromkeys((*map(_of_denied, denied), *_of_flows(flows)))
            self._found = [each for each in every if any(matches(entry, each) for entry in entries)]
            self._known = (id(denied), id(flows), today)
        return self._found


def _of_denied(each: DeniedLabels) -> ComparedTraffic:
    return ComparedTraffic(*(getattr(each, name) for name in LABELS))


def _of_flows(labels: Sequence[FlowLabels]) -> Iterator[ComparedTraffic]:
    for each in labels:
        if each.verdict == UNDECLARED:
            yield ComparedTraffic(*(getattr(each, name) for name in LABELS))

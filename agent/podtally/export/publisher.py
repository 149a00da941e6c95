# SPDX-License-Identifier: Apache-2.0
"""Keeps the latest view for readers in other threads, and renders it as /metrics."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from podtally.api.flows import time_text
from podtally.api.schema import AuditFinding, AuditSums, CandidateRow, Traffic
from podtally.export.agent_metrics import AgentMetrics
from podtally.export.audit_totals import audit_findings, audit_sums
from podtally.export.expected import NOTHING_EXPECTED, ExpectedCollector, ExpectedMatcher
from podtally.export.exposition import Exposition
from podtally.export.ledger_totals import LedgerCollector
from podtally.export.traffic_totals import traffic
from podtally.ledger.metrics.family import BYTES, CONNECTIONS
from podtally.ledger.metrics.view import View

_EOF = "# EOF\n"


class Health(NamedTuple):
    """Why the agent is not alive, or not ready; empty strings if it is."""

    alive: str
    ready: str
    note: str = ""  # what an operator should know although the agent is ready


class Publisher:
    """The latest view, swapped by reference: the one point where the threads meet."""

    def __init__(
        self,
        view: View,
        metrics: AgentMetrics,
        health: Callable[[], Health],
        expected: ExpectedMatcher = NOTHING_EXPECTED,
    ) -> None:
        self.health = health
        self._metrics = metrics
        self._ledger = LedgerCollector(view)
        self._exposition = Exposition()
        self._rendering = threading.Lock()
        metrics.registry.register(self._ledger)
        self._expected = ExpectedCollector(expected)
        self._expected.view = view
        if expected:
            metrics.registry.register(self._expected)

    @property
    def view(self) -> View:
        """The view published last."""
        return self._ledger.view

    def publish(self, view: View) -> None:
        self._ledger.view = self._expected.view = view

    def candidates(self) -> list[CandidateRow]:
        """Return what the present candidates would change, counted since they were loaded."""
        labels, values = self._ledger.view.candidate_changes
        counted = zip(values[:, CONNECTIONS].tolist(), values[:, BYTES].tolist(), strict=True)
        return [CandidateRow(*each, *sums) for each, sums in zip(labels, counted, strict=True)]

    def candidates_since(self) -> str:
        """Return when the present candidates were loaded; "": unknown."""
        since_ns = self._ledger.view.candidates_since_ns
        return time_text(since_ns // 1_000_000_000) if since_ns else ""

    def traffic(self) -> Traffic:
        """Return the sums of all conversations, and the books."""
        return traffic(self._ledger.view)

    def audit(self) -> tuple[list[AuditSums], list[AuditFinding]]:
        """Return the results of the enforcement audit by policy, and its findings."""
        view = self._ledger.view
        return audit_sums(view), audit_findings(view)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the body of /metrics and its content type, in a format that is accepted."""
        wants_openmetrics = "application/openmetrics-text" in accept
        with self._rendering:
            text = self._exposition.render(self._ledger.view, wants_openmetrics)
        if wants_openmetrics:
            own = openmetrics.generate_latest(self._metrics.registry).decode()  # type: ignore[no-untyped-call]
            body = text + own.removesuffix(_EOF) + _EOF
            return body.encode(), openmetrics.CONTENT_TYPE_LATEST
        own = exposition.generate_latest(self._metrics.registry).decode()
        return (text + own).encode(), exposition.CONTENT_TYPE_PLAIN_0_0_4

# SPDX-License-Identifier: Apache-2.0
"""Bounds the domains that each workload shows in metrics; further ones are `other`."""

from podtally.ledger.series.label_sets import OTHER, FlowLabels
from podtally.ledger.series.series import SeriesTable

MAX_DOMAINS = 100  # of one workload

_Workload = tuple[str, str]


class DomainShares:
    def __init__(self) -> None:
        self._shown: dict[_Workload, set[str]] = {}
        self.is_full = False  # a workload had more than its share

    def fitting(self, namespace: str, workload: str, domain: str) -> str:
        """Return the domain, or `other` if its workload shows enough of them."""
        if not domain or domain == OTHER:
            return domain
        shown = self._shown.setdefault((namespace, workload), set())
        if domain not in shown:
            if len(shown) >= MAX_DOMAINS:
                self.is_full = True
                return OTHER
            shown.add(domain)
        return domain

    def expire(self, flows: SeriesTable[FlowLabels]) -> None:
        """Forget domains that are in no series any more, if room is needed."""
        if not self.is_full:
            return
        self._shown, self.is_full = {}, False
        for _, labels in flows.pairs():
            self.fitting(labels.namespace, labels.workload, labels.peer_domain)

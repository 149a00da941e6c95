# SPDX-License-Identifier: Apache-2.0
"""The ledger's sums of the enforcement audit, for ``/api/v1/audit``."""

from podtally.api.schema import AuditFinding, AuditSums
from podtally.ledger.metrics.outcome_families import AUDIT, ENFORCEMENT
from podtally.ledger.metrics.view import View
from podtally.outcomes.enforcement import FINDINGS, RESULTS

_FINDINGS = {RESULTS[each] for each in FINDINGS}


def audit_sums(view: View) -> list[AuditSums]:
    """Return the results of connections by policy, direction and verdict."""
    labels, values = view[AUDIT]
    return [
        AuditSums(*each[:-1], n, each.ends)
        for each, (n,) in zip(labels, values.tolist(), strict=True)
    ]


def audit_findings(view: View) -> list[AuditFinding]:
    """Return what is not enforced, or blocked, by workload and peer."""
    labels, values = view[ENFORCEMENT]
    return [
        AuditFinding(*each, n)
        for each, (n,) in zip(labels, values.tolist(), strict=True)
        if each.result in _FINDINGS
    ]

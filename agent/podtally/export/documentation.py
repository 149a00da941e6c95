# SPDX-License-Identifier: Apache-2.0
"""Makes the tables of docs/metrics.md from the declarations of metrics."""

import re
from typing import NamedTuple

from podtally.export.agent_metrics import AgentMetrics
from podtally.export.expected import DECLARED as EXPECTED
from podtally.export.ledger_totals import TOTALS
from podtally.ledger.metrics.families import FAMILIES
from podtally.ledger.metrics.family import Declaration, Section

_HEAD = "| metric | type | labels | what it is | series |\n|---|---|---|---|---|\n"
_MARKED = re.compile(r"(<!-- metrics: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

# Of prometheus_client, which has HELP texts of its own.
_PROCESS = (
    Declaration(
        name="process_cpu_seconds",
        help="CPU time of the agent.",
        note="Restarts from zero with the agent.",
    ),
    Declaration(
        name="process_resident_memory_bytes",
        kind="gauge",
        help="Resident memory, including the touched part of the mapped flow table.",
    ),
    Declaration(name="process_virtual_memory_bytes", kind="gauge", help="Virtual address space."),
    Declaration(
        name="process_start_time_seconds", kind="gauge", help="Start of the agent, as Unix time."
    ),
    Declaration(name="process_open_fds", kind="gauge", help="Open file descriptors."),
    Declaration(name="process_max_fds", kind="gauge", help="Limit of open file descriptors."),
)


class DocumentedMetric(NamedTuple):
    """One row of a table."""

    section: Section
    declared: Declaration
    labels: tuple[str, ...]


def documented() -> list[DocumentedMetric]:
    """Return all metrics of the agent, in the order of their tables."""
    of_families = [
        DocumentedMetric(family.section, metric, family.labels_of(metric))
        for family in FAMILIES
        for metric in family.metrics
    ]
    of_agent = [DocumentedMetric(*each) for each in AgentMetrics().declared]
    totals = [DocumentedMetric(each.section, each.declared, ()) for each in TOTALS]
    process = [DocumentedMetric(Section.RESOURCES, each, ()) for each in _PROCESS]
    expected = [DocumentedMetric(*EXPECTED)]
    return [*of_families, *of_agent, *totals, *expected, *process]


def table(section: Section) -> str:
    """Return the table of a section, in Markdown."""
    rows = [_row(each) for each in documented() if each.section == section]
    return _HEAD + "".join(rows)


def updated(page: str) -> str:
    """Return the page with its marked tables made again from the declarations."""
    return _MARKED.sub(lambda found: f"{found[1]}{table(Section(found[2]))}{found[3]}", page)


def _row(metric: DocumentedMetric) -> str:
    declared = metric.declared
    cells = (
        f"`{declared.sample_name}`",
        declared.kind,
        f"`{', '.join(metric.labels)}`" if metric.labels else "",
        f"{declared.help} {declared.note}".strip(),
        declared.cardinality,
    )
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")

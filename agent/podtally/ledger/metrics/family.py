# SPDX-License-Identifier: Apache-2.0
"""What a declaration of metrics consists of; ``families`` has those of the ledger."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

from podtally.ledger.connections.account import Account
from podtally.ledger.metrics.costs import SeriesOptions

Labels = TypeVar("Labels", bound=Hashable)

# The sums of a family that counts traffic, and the columns of amounts of traffic.
TRAFFIC = ("bytes", "packets", "connections")
BYTES, PACKETS, CONNECTIONS = range(3)
ONLY_CONNECTIONS = TRAFFIC[CONNECTIONS:]
EGRESS, INGRESS = range(2)  # as in label_sets.DIRECTIONS


class Section(Enum):
    """The tables of docs/metrics.md, by the names of their markers."""

    TRAFFIC = "traffic"
    COST = "cost"
    POLICY = "policy"
    DNS = "dns"
    OUTCOMES = "outcomes"
    WATCHED = "watched"
    NAMES = "names"
    POLICIES = "policies"
    LOAD = "load"
    RESOURCES = "resources"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One metric: its name, and what /metrics and docs/metrics.md say about it."""

    name: str  # as in OpenMetrics: a counter without _total
    kind: str = "counter"
    help: str
    note: str = ""  # what the documentation adds to ``help``, in Markdown
    cardinality: str = "fine: 1"  # fine, careful or avoid, and what the series grow with
    on_dashboards: bool = True

    @property
    def sample_name(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name


@dataclass(frozen=True, kw_only=True)
class Metric(Declaration):
    """A metric of a family's sums: by default those of one column."""

    column: int = 0
    label_of_columns: str = ""  # every column is a series, and this label names it
    is_dollars: bool = False  # the columns are dollars and parts of one
    only: tuple[str, str] | None = None  # a label that is in the metric's name, and its value
    # The columns are counts of buckets with these upper bounds in seconds, of one more beyond
    # them, and the sum in nanoseconds.
    bounds: tuple[float, ...] = ()
    if_any: bool = False  # without series, the metric is left out


class Counts(Enum):
    """What a family adds up of its accounts."""

    TRAFFIC = "traffic"  # the sums of ``TRAFFIC`` that the family has, as they grow
    OPENED = "opened"  # connections that are new


@dataclass(frozen=True, kw_only=True)
class AccountSeries(Generic[Labels]):
    """How accounts are counted in a family."""

    labels: Callable[[Account], Labels | None]  # None: not in this family
    counts: Counts
    direction: int | None = None  # EGRESS, INGRESS; None: both


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Labels]):
    """Series with the same label set, and the metrics that show their sums.

    ``of_accounts`` is None where other code adds to the series. A family that is not
    ``kept`` is computed for each view, and is not in the checkpoint.
    """

    name: str  # in the checkpoint and in views
    labels: type[Labels]
    sums: tuple[str, ...]
    section: Section
    metrics: tuple[Metric, ...]
    of_accounts: AccountSeries[Labels] | None = None
    is_on: Callable[[SeriesOptions], bool] = lambda options: True
    kept: bool = True

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.labels.__annotations__)

    def labels_of(self, metric: Metric) -> tuple[str, ...]:
        """Return the labels of a metric on /metrics."""
        hidden = metric.only[0] if metric.only else ""
        shown = tuple(name for name in self.label_names if name != hidden)
        return (*shown, metric.label_of_columns) if metric.label_of_columns else shown


def histogram(name: str, labels: type[Labels], section: Section, metric: Metric) -> Family[Labels]:
    """Declare the family of a histogram with ``metric.bounds``; other code adds to it."""
    return Family(
        name=name,
        labels=labels,
        sums=(*(f"le {bound}" for bound in (*metric.bounds, "inf")), "ns"),
        section=section,
        metrics=(replace(metric, kind="histogram"),),
    )


def opened_connections(
    name: str,
    labels: type[Labels],
    labels_of: Callable[[Account], Labels | None],
    metric: Metric,
) -> Family[Labels]:
    """Declare a family of policy that counts the new connections of some accounts.

    ``labels_of`` returns an account's labels, or None if its connections do not count.
    """
    return Family(
        name=name,
        labels=labels,
        sums=ONLY_CONNECTIONS,
        section=Section.POLICY,
        metrics=(metric,),
        of_accounts=AccountSeries(labels=labels_of, counts=Counts.OPENED),
    )

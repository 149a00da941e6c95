# SPDX-License-Identifier: Apache-2.0
"""Declares the ledger's sums without labels, and collects them from its view."""

from collections.abc import Callable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from podtally.ledger.metrics.family import Declaration, Section
from podtally.ledger.metrics.view import View


class Total(NamedTuple):
    section: Section
    declared: Declaration
    value: Callable[[View], int]


TOTALS = (
    Total(
        Section.LOAD,
        Declaration(
            name="podtally_table_overflow_packets",
            help="Packets of flows that found no slot; their bytes are booked as overflow.",
        ),
        lambda view: view.overflow_packets,
    ),
    Total(
        Section.LOAD,
        Declaration(
            name="podtally_connections_unknown_initiator",
            help="Connections with an unknown initiator.",
            note="They are older than the agent, or it did not see their first packets.",
        ),
        lambda view: view.unknown_initiators,
    ),
    Total(
        Section.NAMES,
        Declaration(
            name="podtally_name_timeouts",
            help="Connections booked under unknown, because no name arrived in time.",
        ),
        lambda view: view.name_timeouts,
    ),
    Total(
        Section.NAMES,
        Declaration(
            name="podtally_waiting_connections",
            kind="gauge",
            help="Connections that wait for a name, and are in no flow series yet.",
        ),
        lambda view: view.waiting,
    ),
    Total(
        Section.LOAD,
        Declaration(
            name="podtally_flow_series_limited",
            help="Times that connections got a series under other, for want of series.",
        ),
        lambda view: view.limited,
    ),
)


class LedgerCollector(Collector):
    """Collects the totals of ``view``, which is replaced each epoch."""

    def __init__(self, view: View) -> None:
        self.view = view

    def collect(self) -> list[Metric]:
        view = self.view
        return [_metric(each.declared, each.value(view)) for each in TOTALS]


def _metric(declared: Declaration, value: int) -> Metric:
    kind = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    return kind(declared.name, declared.help, value=value)

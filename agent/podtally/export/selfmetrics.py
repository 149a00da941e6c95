"""What the agent tells of itself: the numbers an operator looks at when something is off."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from podtally import __version__
from podtally.ledger.ledger import View

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class SelfMetrics:
    """One registry, and the metrics in it as attributes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        gauge("build_info", "1; the version is a label.", self.registry, "version").labels(
            __version__
        ).set(1)
        self.epoch_duration = self._histogram(
            "epoch_duration_seconds", "From the flip of the halves to the end of the epoch's work."
        )
        self.epoch_lateness = self._histogram(
            "epoch_lateness_seconds", "How much later than due an epoch's flip was."
        )
        self.swap = self._histogram(
            "swap_seconds", "Flipping the halves and waiting until no program writes to the old."
        )
        self.epoch_flows = self._gauge("epoch_flows", "Flows in the last epoch.")
        self.table_fill = self._gauge(
            "table_fill_ratio", "Share of one half's slots that the last epoch used."
        )
        self.table_slots = self._gauge("table_slots", "Slots in one half of the flow table.")
        self.connections = self._gauge("open_connections", "Connections under way.")
        self.unnamed = self._gauge(
            "unnamed_interfaces", "Watched interfaces of which nobody knows whose they are."
        )
        self.attached = gauge(
            "attached_interfaces", "Interfaces that are watched.", self.registry, "mode"
        )
        self.foreign = gauge(
            "foreign_programs",
            "Programs of others that run before ours, and can end the chain.",
            self.registry,
            "interface",
            "hook",
        )
        self.attach_errors = self._counter(
            "attach_errors", "Interfaces that could not be watched when they should have been."
        )
        self.loader_runs = self._counter("loader_runs", "Times that kernel programs were compiled.")
        self.resyncs = self._counter(
            "netlink_resyncs", "Times that netlink messages were lost and all links were read anew."
        )
        self.checkpoint_size = self._gauge("checkpoint_size_bytes", "Size of the last checkpoint.")
        self.checkpoint_errors = self._counter(
            "checkpoint_errors", "Checkpoints that could not be written; no counts are lost by it."
        )
        self._written = time.monotonic()
        self._gauge("checkpoint_age_seconds", "Since the last checkpoint.").set_function(
            lambda: time.monotonic() - self._written
        )
        self.flow_log_errors = self._counter(
            "flow_log_errors", "Flow log records that could not be written."
        )

    def checkpoint_written(self, size: int) -> None:
        self._written = time.monotonic()
        self.checkpoint_size.set(size)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"podtally_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"podtally_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"podtally_{name}", text, registry=self.registry, buckets=_BUCKETS)


def gauge(name: str, text: str, registry: CollectorRegistry, *labels: str) -> Gauge:
    return Gauge(f"podtally_{name}", text, labels, registry=registry)


class LedgerCollector(Collector):
    """The ledger's own sums that have no labels; ``view`` is replaced each epoch."""

    def __init__(self, view: View) -> None:
        self.view = view

    def collect(self) -> list[CounterMetricFamily]:
        view = self.view
        return [
            CounterMetricFamily(
                "podtally_probes_failed",
                "Packets whose flow found no slot; their bytes are booked as overflow.",
                value=view.overflow_packets,
            ),
            CounterMetricFamily(
                "podtally_connections_began_unknown",
                "Connections of which nobody saw who began them.",
                value=view.began_unknown,
            ),
            CounterMetricFamily(
                "podtally_flow_series_limited",
                "Times that flows went to `other` because the series limit was reached.",
                value=view.limited,
            ),
        ]

# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of itself: the numbers an operator looks at when something is off.

Totals and durations go into the checkpoint, and what is shown of them is what was
written there: so these counters, too, go on over a kill, and never go down. Gauges tell
of now.
"""

import bisect
import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from podtally import __version__
from podtally.ledger.view import View

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds


class CounterMetric:
    """A counter."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by

    def dump(self) -> list[float]:
        return [self.value]

    def restore(self, dumped: Sequence[float]) -> None:
        (self.value,) = dumped

    def family(self, dumped: Sequence[float]) -> Metric:
        return CounterMetricFamily(f"podtally_{self.name}", self._text, value=dumped[0])


class HistogramMetric:
    """A histogram of seconds."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self._counts = [0.0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def dump(self) -> list[float]:
        return [*self._counts, self._sum]

    def restore(self, dumped: Sequence[float]) -> None:
        if len(dumped) == len(self._counts) + 1:  # else its bounds were others
            self._counts, self._sum = list(dumped[:-1]), dumped[-1]

    def family(self, dumped: Sequence[float]) -> Metric:
        buckets, below = [], 0.0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), dumped[:-1], strict=True):
            below += count
            buckets.append((bound, below))
        return HistogramMetricFamily(f"podtally_{self.name}", self._text, buckets, dumped[-1])


class StartTime:
    """When the counters began at zero, kept as CLOCK_MONOTONIC and shown as Unix time.

    A gauge that lets queries count what a new agent's counters were born with.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self._monotonic = time.monotonic()

    def dump(self) -> list[float]:
        return [self._monotonic]

    def restore(self, dumped: Sequence[float]) -> None:
        """Without ``dumped`` the counters are of an unknown age: as old as the boot."""
        self._monotonic = dumped[0] if dumped else 0.0

    def family(self, dumped: Sequence[float]) -> Metric:
        began = round(time.time() - time.monotonic() + dumped[0])
        return GaugeMetricFamily(f"podtally_{self.name}", self._text, value=began)


class AgentMetrics(Collector):
    """One registry, and the metrics in it as attributes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._kept: list[CounterMetric | HistogramMetric | StartTime] = []
        self._make_totals()
        self._make_gauges()
        self._written = time.monotonic()
        self._shown = self.dump()
        self.registry.register(self)

    def checkpoint_written(self, size: int, dumped: dict[str, list[float]]) -> None:
        """Show what is in the checkpoint now."""
        self._written = time.monotonic()
        self._shown = dumped
        self.checkpoint_size.set(size)

    def collect(self) -> Iterable[Metric]:
        shown = self._shown
        # Of a checkpoint that cannot be written, only a live number can tell.
        errors = self.checkpoint_errors
        return [
            each.family(each.dump() if each is errors else shown[each.name]) for each in self._kept
        ]

    def dump(self) -> dict[str, list[float]]:
        """For the checkpoint: what must not begin anew with every start."""
        return {each.name: each.dump() for each in self._kept}

    def restore(self, dumped: Mapping[str, Sequence[float]]) -> None:
        self._start_time.restore(())
        for each in self._kept:
            if each.name in dumped:
                each.restore(dumped[each.name])
        self._shown = self.dump()

    def _make_totals(self) -> None:
        self._start_time = StartTime(
            "counters_start_time_seconds",
            "Unix time at which the counters began at zero; a restart of the agent keeps it.",
        )
        self._kept.append(self._start_time)
        self.epoch_duration = self._durations(
            "epoch_duration_seconds", "From the flip of the halves to the end of the epoch's work."
        )
        self.epoch_lateness = self._durations(
            "epoch_lateness_seconds", "How much later than due an epoch's flip was."
        )
        self.swap = self._durations(
            "swap_seconds", "Flipping the halves and waiting until no program writes to the old."
        )
        self.attach_errors = self._total(
            "attach_errors", "Interfaces that could not be watched when they should have been."
        )
        self.loader_runs = self._total("loader_runs", "Times that kernel programs were compiled.")
        self.resyncs = self._total(
            "netlink_resyncs", "Times that netlink messages were lost and all links were read anew."
        )
        self.checkpoint_errors = self._total(
            "checkpoint_errors", "Checkpoints that could not be written; no counts are lost by it."
        )
        self.source_errors = self._total(
            "name_source_errors",
            "Questions for names that the Kubernetes API or the container runtime did not answer.",
        )
        self.conntrack_lookups = self._total(
            "conntrack_lookups",
            "Connections to Services that the connection tracker was asked for.",
        )
        self.conntrack_missed = self._total(
            "conntrack_lookups_missed", "Of these, the ones that it does not know, in no zone."
        )
        self.relists = self._total(
            "kubernetes_lists", "Times that a resource of the Kubernetes API was listed anew."
        )
        self.flow_log_errors = self._total(
            "flow_log_errors", "Epochs whose flow log records could not be written."
        )

        self.events_logged = self._total("events_logged", "Lines written to the event log.")
        self.event_log_errors = self._total(
            "event_log_errors", "Epochs whose events could not be written; they are tried again."
        )

    def _make_gauges(self) -> None:
        self._gauge("build_info", "1; the version is a label.", "version").labels(__version__).set(
            1
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
        self.contradicted = self._gauge(
            "conflicting_addresses",
            "Addresses configured in an endpoint that belong to others; they are not believed.",
            "namespace",
            "workload",
        )
        self.kubernetes_age = self._gauge(
            "kubernetes_age_seconds",
            "Since the Kubernetes API was last heard of a resource; names are as old.",
            "resource",
        )
        self.kubernetes_unsynced = self._gauge(
            "kubernetes_unsynced",
            "1 for a resource of the Kubernetes API that is forbidden, or was never synced.",
            "resource",
            "reason",
        )
        self.kubernetes_objects = self._gauge(
            "kubernetes_objects", "Objects known from the Kubernetes API.", "resource"
        )
        self.policies = self._gauge("policies", "Policies and Ingresses in force.", "kind")
        self.policies_unreadable = self._gauge(
            "policies_unreadable",
            "Policy objects and texts that cannot be read: what only they select is unknown.",
        )
        self.policy_files_stale = self._gauge(
            "policy_files_stale",
            "Files in force in an earlier version, since theirs is unreadable.",
        )
        self.policies_unsynced = self._gauge(
            "policy_resources_unsynced",
            "Resources of policies that the Kubernetes API has not told of yet.",
        )
        self.candidates = self._gauge("candidate_policies", "Candidates that are judged beside.")
        self.events_pending = self._gauge(
            "events_pending", "Events that are to be told of, and wait for their turn."
        )
        self.conntrack = self._gauge(
            "conntrack_available", "1 if Services are resolved by the connection tracker."
        )
        self.attached = self._gauge("attached_interfaces", "Interfaces that are watched.", "mode")
        self.foreign = self._gauge(
            "foreign_programs",
            "Programs of others that run before ours, and can end the chain.",
            "interface",
            "hook",
        )
        self.checkpoint_size = self._gauge("checkpoint_size_bytes", "Size of the last checkpoint.")
        self._gauge("checkpoint_age_seconds", "Since the last checkpoint.").set_function(
            lambda: time.monotonic() - self._written
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"podtally_{name}", text, labels, registry=self.registry)

    def _total(self, name: str, text: str) -> CounterMetric:
        total = CounterMetric(name, text)
        self._kept.append(total)
        return total

    def _durations(self, name: str, text: str) -> HistogramMetric:
        durations = HistogramMetric(name, text)
        self._kept.append(durations)
        return durations


class LedgerCollector(Collector):
    """The ledger's own sums that have no labels; ``view`` is replaced each epoch."""

    def __init__(self, view: View) -> None:
        self.view = view

    def collect(self) -> list[Metric]:
        view = self.view
        return [
            CounterMetricFamily(
                "podtally_table_overflow_packets",
                "Packets whose flow found no slot; their bytes are booked as overflow.",
                value=view.overflow_packets,
            ),
            CounterMetricFamily(
                "podtally_connections_unknown_initiator",
                "Connections of which nobody saw who began them.",
                value=view.began_unknown,
            ),
            CounterMetricFamily(
                "podtally_name_timeouts",
                "Connections booked under `unknown`, since no name came while they waited.",
                value=view.name_timeouts,
            ),
            GaugeMetricFamily(
                "podtally_waiting_connections",
                "Connections that wait for a name, and are in no flow series yet.",
                value=view.waiting,
            ),
            CounterMetricFamily(
                "podtally_flow_series_limited",
                "Times that connections went to `other`: their endpoint has its share of series.",
                value=view.limited,
            ),
        ]

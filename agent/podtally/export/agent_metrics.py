# SPDX-License-Identifier: Apache-2.0
"""Declares the agent's metrics about itself.

Counters and histograms are in the checkpoint, and /metrics shows the values that were written
there: after a kill they continue, and never go down. Gauges show the present.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from podtally import __version__
from podtally.export.kept_metrics import CounterMetric, HistogramMetric, StartTime
from podtally.ledger.metrics.family import Declaration, Section

KeptMetric = CounterMetric | HistogramMetric | StartTime
Declared = tuple[Section, Declaration, tuple[str, ...]]  # and its labels

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds


class AgentMetrics(Collector):
    """One registry, and the metrics in it as attributes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.declared: list[Declared] = []
        self._kept: list[KeptMetric] = []
        self._watching()
        self._naming()
        self._policies_and_logs()
        self._load()
        self._checkpoint()
        self._written = time.monotonic()
        self._shown = self.dump()
        self.registry.register(self)

    def checkpoint_written(self, size: int, dumped: dict[str, list[float]]) -> None:
        """Show ``dumped``, which the checkpoint has now."""
        self._written = time.monotonic()
        self._shown = dumped
        self.checkpoint_size.set(size)

    def collect(self) -> Iterable[Metric]:
        shown = self._shown
        # If the checkpoint cannot be written, only the live number shows it.
        errors = self.checkpoint_errors
        return [
            each.family(each.dump() if each is errors else shown[each.name]) for each in self._kept
        ]

    def dump(self) -> dict[str, list[float]]:
        """Return what the checkpoint keeps."""
        return {each.name: each.dump() for each in self._kept}

    def restore(self, dumped: Mapping[str, Sequence[float]]) -> None:
        self._start_time.restore(())
        for each in self._kept:
            if each.name in dumped:
                each.restore(dumped[each.name])
        self._shown = self.dump()

    def _in(self, section: Section) -> "_Declaring":
        return _Declaring(section, self.registry, self.declared, self._kept)

    # -- declarations -------------------------------------------------------------------

    def _watching(self) -> None:
        section = self._in(Section.WATCHED)
        section.gauge("build_info", "1; the version is a label.", ("version",)).labels(
            __version__
        ).set(1)
        self._start_time = StartTime(
            "counters_start_time_seconds",
            "Unix time at which the counters started at zero; a restart of the agent keeps it.",
        )
        section.keep(
            self._start_time,
            "gauge",
            note="The first start on this boot, or the first without a usable checkpoint.",
        )
        self.attached = section.gauge(
            "attached_interfaces",
            "Watched interfaces, by attachment mode.",
            ("mode",),
            cardinality="fine: 2",
        )
        self.attach_errors = section.total("attach_errors", "Interfaces that could not be watched.")
        self.foreign = section.gauge(
            "foreign_programs",
            "Other programs that run before podtally's and can hide packets from it; hook "
            "`bypassed`: packets reached or left the endpoint without passing the interface.",
            ("interface", "hook"),
            cardinality="fine: 1 per interface and hook that has any",
        )
        self.resyncs = section.total(
            "netlink_resyncs",
            "Times that netlink messages were lost and all links were read again.",
        )

    def _naming(self) -> None:
        section = self._in(Section.NAMES)
        self.unnamed = section.gauge(
            "unnamed_interfaces", "Watched interfaces with no known owner."
        )
        self.conflicting = section.gauge(
            "conflicting_addresses",
            "Addresses configured in an endpoint that belong to others, or are too many.",
            ("namespace", "workload"),
            note="They are ignored.",
            cardinality="fine: 1 per workload that has any",
        )
        self.source_errors = section.total(
            "name_source_errors",
            "Requests for names that the API, the container runtime or the kernel did not answer.",
        )
        self.kubernetes_age = section.gauge(
            "kubernetes_age_seconds",
            "Time since the last message of the Kubernetes API about a resource.",
            ("resource",),
            note="Names are as old. Bookmarks arrive about once a minute.",
            cardinality="fine: 1 per resource",
        )
        self.kubernetes_unsynced = section.gauge(
            "kubernetes_unsynced",
            "1 for a resource of the Kubernetes API that is forbidden, or was never synced.",
            ("resource", "reason"),
            cardinality="fine: 1 per such resource",
        )
        self.kubernetes_objects = section.gauge(
            "kubernetes_objects",
            "Objects known from the Kubernetes API.",
            ("resource",),
            cardinality="fine: 1 per resource",
        )
        self.relists = section.total(
            "kubernetes_lists",
            "Full reads of a resource of the Kubernetes API.",
            note="Many mean that watches break.",
        )
        self.conntrack = section.gauge(
            "conntrack_available",
            "1 if Services are resolved by the connection tracker.",
            note="0: by their endpoints, if these agree.",
        )
        self.conntrack_lookups = section.total(
            "conntrack_lookups",
            "Connections to Services that were looked up in the connection tracker.",
        )
        self.conntrack_missed = section.total(
            "conntrack_lookups_missed",
            "Connections to Services that the connection tracker does not have, in any zone.",
            note="They are resolved by the Service's endpoints, if these agree.",
        )

    def _policies_and_logs(self) -> None:
        section = self._in(Section.POLICIES)
        self.policies = section.gauge(
            "policies",
            "Policies and Ingresses in force, from files and the API.",
            ("kind",),
            cardinality="fine: 1 per kind",
        )
        self.policies_changed = section.gauge(
            "policies_changed_timestamp_seconds",
            "Unix time at which the policies in force last changed, as this agent knows them.",
            note="Also a start of the agent; for annotations of dashboards.",
        )
        self.policies_unreadable = section.gauge(
            "policies_unreadable",
            "Policy objects and files that cannot be read.",
            note="What they select and no other policy decides is `unknown`.",
        )
        self.policy_files_stale = section.gauge(
            "policy_files_stale",
            "Policy files in force in an earlier version, because the present one is unreadable.",
        )
        self.policies_unsynced = section.gauge(
            "policy_resources_unsynced",
            "Policy resource types not yet synced from the Kubernetes API.",
            note="Until then every verdict is `unknown`, unless kept policies are in force.",
        )
        self.policies_kept = section.gauge(
            "policy_resources_kept",
            "Policy resource types not yet synced, in force as an earlier agent kept them.",
            note="From ten seconds after the start, for a day after the last contact at most.",
        )
        self.candidates = section.gauge(
            "candidate_policies", "Candidate policies under evaluation (dry run)."
        )
        self.events_logged = section.total("events_logged", "Lines written to the event log.")
        self.events_pending = section.gauge(
            "events_pending", "Events queued by the rate limit (events_rate)."
        )
        self.event_log_errors = section.total(
            "event_log_errors",
            "Epochs with events that could not be written; they are kept and retried.",
        )
        self.flow_log_errors = section.total(
            "flow_log_errors", "Epochs with flow log lines that could not be written."
        )
        self.history_rows = section.total("history_rows", "Rows written to the history.")
        self.history_errors = section.total(
            "history_errors",
            "Attempts to write the history that failed; what they were to write is retried.",
        )
        self.history_lost = section.total(
            "history_lost_rows", "Rows of the history that were lost, because no disk took them."
        )
        self.history_size = section.gauge(
            "history_size_bytes", "Size of the history's file; history.max_bytes limits it."
        )
        self.history_pending = section.gauge(
            "history_pending_batches", "Minutes of the history that are not written yet."
        )

    def _load(self) -> None:
        section = self._in(Section.LOAD)
        self.epoch_duration = section.durations(
            "epoch_duration_seconds",
            "Time from the flip of the table's halves to the end of the epoch's work.",
        )
        self.epoch_lateness = section.durations(
            "epoch_lateness_seconds", "How much later than due an epoch started."
        )
        self.swap = section.durations(
            "swap_seconds",
            "Time to flip the table's halves and wait until no program writes to the old one.",
        )
        self.epoch_flows = section.gauge("epoch_flows", "Flows in the last epoch.")
        self.table_slots = section.gauge("table_slots", "Slots in one half of the flow table.")
        self.table_fill = section.gauge(
            "table_fill_ratio",
            "Share of one half's slots that the last epoch used.",
            note="Above one half, new flows start to overflow.",
        )
        self.connections = section.gauge("open_connections", "Open connections.")

    def _checkpoint(self) -> None:
        section = self._in(Section.RESOURCES)
        section.gauge("checkpoint_age_seconds", "Time since the last checkpoint.").set_function(
            lambda: time.monotonic() - self._written
        )
        self.checkpoint_size = section.gauge(
            "checkpoint_size_bytes", "Size of the last checkpoint."
        )
        self.checkpoint_errors = section.total(
            "checkpoint_errors",
            "Checkpoints that could not be written; no counts are lost.",
        )
        self.loader_runs = section.total(
            "loader_runs", "Times that the kernel programs were loaded."
        )


class _Declaring:
    """Makes metrics, and adds their declarations to those of a section of the documentation."""

    def __init__(
        self,
        section: Section,
        registry: CollectorRegistry,
        declared: list[Declared],
        kept: list[KeptMetric],
    ) -> None:
        self._section, self._registry = section, registry
        self._declared, self._kept = declared, kept

    def gauge(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        note: str = "",
        cardinality: str = "fine: 1",
    ) -> Gauge:
        declared = Declaration(
            name=f"podtally_{name}", kind="gauge", help=text, note=note, cardinality=cardinality
        )
        self._declared.append((self._section, declared, labels))
        return Gauge(declared.name, text, labels, registry=self._registry)

    def total(self, name: str, text: str, *, note: str = "") -> CounterMetric:
        total = CounterMetric(name, text)
        self.keep(total, "counter", note=note)
        return total

    def durations(self, name: str, text: str) -> HistogramMetric:
        durations = HistogramMetric(name, text, BUCKETS)
        series = len(BUCKETS) + 3  # the buckets, +Inf, the sum and the count
        self.keep(durations, "histogram", cardinality=f"fine: {series}")
        return durations

    def keep(
        self, metric: KeptMetric, kind: str, *, note: str = "", cardinality: str = "fine: 1"
    ) -> None:
        declared = Declaration(
            name=f"podtally_{metric.name}",
            kind=kind,
            help=metric.text,
            note=note,
            cardinality=cardinality,
        )
        self._declared.append((self._section, declared, ()))
        self._kept.append(metric)

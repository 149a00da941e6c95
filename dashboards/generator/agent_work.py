# SPDX-License-Identifier: Apache-2.0
"""Rows of the Agent dashboard: names, policies and events, logs and checkpoint, cost."""

from dashboards.generator.by_node import (
    NODE,
    QUARTER,
    THIRD,
    THIRD_RATE,
    now,
    per_second,
    rate_of,
)
from dashboards.generator.model import Row
from dashboards.generator.panels import BYTES, PER_SECOND, SECONDS, SHARE, Line, Look, Steps, lines
from dashboards.generator.queries import AGENTS, grown

NAMES = Row(
    "Names",
    (
        now(
            "podtally_kubernetes_age_seconds",
            "Kubernetes API cache age",
            "Time since the last message of the API; names are as old. Bookmarks arrive about "
            "once a minute; above five minutes the API is unreachable, or the watch is stuck.",
            Look(SECONDS, 8, 7, Steps(yellow=150, red=300)),
            "resource",
        ),
        now(
            "podtally_kubernetes_objects",
            "Kubernetes API objects",
            "Known objects, by resource.",
            THIRD,
            "resource",
        ),
        lines(
            "API lists and failed lookups",
            "Lists: full reads of an API resource; many mean that watches break. Lookups: "
            "requests for names that the API, the container runtime or the kernel did not answer.",
            (
                Line(per_second("podtally_kubernetes_lists_total"), f"{NODE} lists"),
                Line(per_second("podtally_name_source_errors_total"), f"{NODE} lookups"),
            ),
            THIRD_RATE,
        ),
        now(
            "podtally_waiting_connections",
            "Connections waiting for a name",
            "They wait for name_wait at most; then they are booked under unknown.",
            QUARTER,
        ),
        rate_of(
            "podtally_name_timeouts_total",
            "Name timeouts",
            "Connections booked under unknown because no name arrived in time. The API or the "
            "container runtime is slow, or unreachable.",
            Look(PER_SECOND, 6, 7),
        ),
        now(
            "podtally_attached_interfaces",
            "Watched interfaces",
            "By attachment mode.",
            QUARTER,
            "mode",
        ),
        now(
            "podtally_foreign_programs",
            "Foreign programs",
            "Programs that run before podtally's, by interface and hook. podtally does not see "
            "the packets that they drop or redirect.",
            QUARTER,
            "interface",
            "hook",
        ),
        now(
            "podtally_kubernetes_unsynced",
            "Kubernetes resources not synced",
            "By resource and reason: access is forbidden, or the resource was never synced since "
            "the start. What depends on it is unknown until then.",
            THIRD,
            "resource",
            "reason",
        ),
        now(
            "podtally_conflicting_addresses",
            "Conflicting addresses",
            "Addresses configured in a workload's pods that belong to others; podtally ignores "
            "them. A misconfiguration, or a pod that impersonates another.",
            THIRD,
            "namespace",
            "workload",
        ),
        lines(
            "Service lookups",
            "Connections to Services that were looked up in the connection tracker, and lookups "
            "that it did not answer. Those are resolved by the Service's endpoints.",
            (
                Line(per_second("podtally_conntrack_lookups_total"), f"{NODE} lookups"),
                Line(per_second("podtally_conntrack_lookups_missed_total"), f"{NODE} missed"),
            ),
            THIRD_RATE,
        ),
    ),
)

WRITING = Row(
    "Checkpoint and logs",
    (
        lines(
            "Checkpoint age",
            "Normally the length of an epoch. It grows while the checkpoint cannot be written: "
            "/metrics does not change then, and no counts are lost unless the table fills up.",
            Line(f"max by (instance) (podtally_checkpoint_age_seconds{{{AGENTS}}})", NODE),
            Look(SECONDS, 6, 7, Steps(yellow=60, red=120)),
        ),
        now(
            "podtally_checkpoint_size_bytes",
            "Checkpoint size",
            "Size of the file in state_dir, which is best kept in memory (tmpfs).",
            Look(BYTES, 6, 7),
        ),
        lines(
            "Write errors",
            "Checkpoints, and epochs of the flow log and the event log, that could not be "
            "written. Is a disk full? Events and counts are kept and retried; flow log lines are "
            "not.",
            (
                Line(per_second("podtally_checkpoint_errors_total"), f"{NODE} checkpoints"),
                Line(per_second("podtally_flow_log_errors_total"), f"{NODE} flow log"),
                Line(per_second("podtally_event_log_errors_total"), f"{NODE} events"),
            ),
            Look(PER_SECOND, 6, 7, empty="nothing failed"),
        ),
        lines(
            "Events",
            "Lines written per second, and events queued by events_rate.",
            (
                Line(per_second("podtally_events_logged_total"), f"{NODE} written/s"),
                Line(f"sum by (instance) (podtally_events_pending{{{AGENTS}}})", f"{NODE} pending"),
            ),
            QUARTER,
        ),
        now(
            "podtally_history_size_bytes",
            "History size",
            "Size of the file of podtally flows; history.max_bytes limits it.",
            Look(BYTES, 8, 7),
        ),
        lines(
            "History rows",
            "Rows written per second, and rows lost because no disk took them.",
            (
                Line(per_second("podtally_history_rows_total"), f"{NODE} written"),
                Line(per_second("podtally_history_lost_rows_total"), f"{NODE} lost"),
            ),
            THIRD_RATE,
        ),
        lines(
            "History trouble",
            "Minutes that are not written yet (normally 0), and failed attempts to write per "
            "second: the disk is full or read-only, or another agent writes the same file.",
            (
                Line(
                    f"sum by (instance) (podtally_history_pending_batches{{{AGENTS}}})",
                    f"{NODE} minutes",
                ),
                Line(per_second("podtally_history_errors_total"), f"{NODE} errors/s"),
            ),
            THIRD,
        ),
    ),
)


def _own(expr: str) -> str:
    """Select podtally's processes: other processes have metrics of the same name."""
    return f"sum by (instance) ({expr} and on (instance, job) podtally_build_info)"


COST = Row(
    "Resource usage",
    (
        lines(
            "CPU",
            "Share of one core. It grows with flows and with pod churn.",
            Line(_own(f"rate(process_cpu_seconds_total{{{AGENTS}}}[$__rate_interval])"), NODE),
            Look(SHARE, 6, 7),
        ),
        lines(
            "Memory",
            "Resident memory, without the kernel's flow table.",
            Line(_own(f"process_resident_memory_bytes{{{AGENTS}}}"), NODE),
            Look(BYTES, 6, 7),
        ),
        lines(
            "Open files",
            "Should be steady; steady growth is a leak.",
            Line(_own(f"process_open_fds{{{AGENTS}}}"), NODE),
            QUARTER,
        ),
        lines(
            "Program loads",
            "In the selected time range: one after an upgrade. More: the agent cannot keep its "
            "programs; its log says why.",
            Line(grown("podtally_loader_runs_total", AGENTS, "instance"), NODE),
            QUARTER,
        ),
    ),
)

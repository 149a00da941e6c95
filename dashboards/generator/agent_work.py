# SPDX-License-Identifier: Apache-2.0
"""What the agents do beside counting, and what they cost: rows of the Agent dashboard."""

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
            "Age of what the API told",
            "Names are as old as this. Bookmarks come about once a minute; beyond five, the API is "
            "away, or the watch is dead.",
            Look(SECONDS, 8, 7, Steps(yellow=150, red=300)),
            "resource",
        ),
        now("podtally_kubernetes_objects", "Objects of the API", "By resource.", THIRD, "resource"),
        lines(
            "Lists and errors",
            "Lists begun: many tell of watches that break. Questions: what API, container runtime "
            "or kernel did not answer.",
            (
                Line(per_second("podtally_kubernetes_lists_total"), f"{NODE} lists"),
                Line(per_second("podtally_name_source_errors_total"), f"{NODE} questions"),
            ),
            THIRD_RATE,
        ),
        now(
            "podtally_waiting_connections",
            "Connections that wait for a name",
            "At most name_wait; then they are booked under unknown.",
            QUARTER,
        ),
        rate_of(
            "podtally_names_came_too_late_total",
            "Names that came too late",
            "Connections booked under unknown. The API or the runtime is slow, or away.",
            Look(PER_SECOND, 6, 7),
        ),
        now(
            "podtally_attached_interfaces",
            "Watched interfaces",
            "By the mode of attachment.",
            QUARTER,
            "mode",
        ),
        now(
            "podtally_foreign_programs",
            "Foreign programs",
            "By interface and hook: they run before ours, and what they end we never see.",
            QUARTER,
            "interface",
            "hook",
        ),
    ),
)

WRITING = Row(
    "Writing",
    (
        lines(
            "Checkpoint's age",
            "Since the last one; an epoch's length is right. It grows while it cannot be written: "
            "then /metrics stands still, and nothing is lost unless the table fills up.",
            Line(f"max by (instance) (podtally_checkpoint_age_seconds{{{AGENTS}}})", NODE),
            Look(SECONDS, 6, 7, Steps(yellow=60, red=120)),
        ),
        now(
            "podtally_checkpoint_size_bytes",
            "Checkpoint's size",
            "In state_dir, which is best in memory.",
            Look(BYTES, 6, 7),
        ),
        lines(
            "What could not be written",
            "Checkpoints, epochs of the flow log, epochs of events. Is a disk full? Events and "
            "counts are kept and tried again; flow log lines are not.",
            (
                Line(per_second("podtally_checkpoint_errors_total"), f"{NODE} checkpoints"),
                Line(per_second("podtally_flow_log_errors_total"), f"{NODE} flow log"),
                Line(per_second("podtally_event_log_errors_total"), f"{NODE} events"),
            ),
            Look(PER_SECOND, 6, 7),
        ),
        lines(
            "Events",
            "Lines a second, and events that wait for theirs because of events_rate.",
            (
                Line(per_second("podtally_events_told_total"), f"{NODE} a second"),
                Line(f"sum by (instance) (podtally_events_untold{{{AGENTS}}})", f"{NODE} wait"),
            ),
            QUARTER,
        ),
    ),
)


def _own(expr: str) -> str:
    """Of podtally's processes alone: others have metrics of the same name."""
    return f"sum by (instance) ({expr} and on (instance, job) podtally_build_info)"


COST = Row(
    "What they cost",
    (
        lines(
            "CPU",
            "Of one core. It grows with flows and with pods that come and go.",
            Line(_own(f"rate(process_cpu_seconds_total{{{AGENTS}}}[$__rate_interval])"), NODE),
            Look(SHARE, 6, 7),
        ),
        lines(
            "Memory",
            "Resident; the kernel's table is besides.",
            Line(_own(f"process_resident_memory_bytes{{{AGENTS}}}"), NODE),
            Look(BYTES, 6, 7),
        ),
        lines(
            "Open files",
            "Steady; what only grows is a leak.",
            Line(_own(f"process_open_fds{{{AGENTS}}}"), NODE),
            QUARTER,
        ),
        lines(
            "Compilations",
            "In the chosen time: one after an upgrade. More: the agent cannot keep its programs; "
            "its log says why.",
            Line(grown("podtally_loader_runs_total", AGENTS, "instance"), NODE),
            QUARTER,
        ),
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""The agents themselves: do they answer, keep up, name, judge and write, and what do they cost."""

from dashboards.generator.agent_work import COST, NAMES, WRITING
from dashboards.generator.by_node import NODE, THIRD, THIRD_RATE, now, per_second, rate_of
from dashboards.generator.model import Dashboard, Row, Variable
from dashboards.generator.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    LESS_THAN_ALL_IS_BAD,
    SECONDS,
    SHARE,
    YES_NO,
    Column,
    Line,
    Look,
    Steps,
    Value,
    lines,
    number,
    table,
)
from dashboards.generator.queries import AGENTS, CLUSTER, INSTANCE, grown, or_zero, share

_JOB = Variable("job", "Job", 'podtally_build_info{cluster=~"$cluster"}', everything=False)
_UP = f'up{{{AGENTS},job=~"$job"}}'
_BOOKS = "podtally_books_bytes_total"
_FILL = Steps(yellow=0.4, red=0.5)  # an alert; new flows overflow


def _quantile(histogram: str) -> str:
    """Of 100 epochs, the second slowest; where none was counted, nothing."""
    buckets = per_second(f"{histogram}_bucket", "le")
    return f"histogram_quantile(0.99, {buckets})"


def _sum(metric: str) -> str:
    return f"sum({metric}{{{AGENTS}}})"


_ORDER = Row(
    "Are the agents in order?",
    (
        number(
            "Agents that answer",
            "Of those that Prometheus scrapes. One that is silent still counts in the kernel, and "
            "books it when it is back, unless the node was restarted or the table is full. Which: "
            "in the table below, Answers is No.",
            share(f"sum({_UP})", f"count({_UP})"),
            SHARE,
            LESS_THAN_ALL_IS_BAD,
        ),
        number(
            "Gap in the books",
            "Bytes that are on interfaces and not in the books, or the other way round. Not 0: "
            "look for foreign programs below, and for queueing disciplines that drop.",
            f"sum(abs(podtally_books_gap_bytes{{{AGENTS}}}))",
            BYTES,
            ANY_IS_BAD,
        ),
        number(
            "Fullest table",
            "Share of a half's slots that the last epoch used. New flows begin to overflow above a "
            "half: raise max_flows.",
            f"max(podtally_table_fill_ratio{{{AGENTS}}})",
            SHARE,
            _FILL,
        ),
        number(
            "Interfaces without a name",
            "Watched, and nobody knows whose they are: their traffic is in the books and in no "
            "pod's series. Name them in endpoints:, or give the agent the API.",
            _sum("podtally_unnamed_interfaces"),
            COUNT,
            ANY_IS_ODD,
        ),
        number(
            "Could not be watched",
            "Attachments that failed in the chosen time; the agent's log says why.",
            or_zero(grown("podtally_attach_errors_total", AGENTS)),
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "Programs before ours",
            "Programs of others that run before ours and can hide packets from us.",
            or_zero(_sum("podtally_foreign_programs")),
            COUNT,
            ANY_IS_ODD,
        ),
        table(
            "Agents",
            "One line a node.",
            (Column("instance", "Node"),),
            (
                Value(
                    "Interfaces",
                    f"sum by (instance) (podtally_attached_interfaces{{{AGENTS}}})",
                    COUNT,
                ),
                Value(
                    "Connections",
                    f"sum by (instance) (podtally_open_connections{{{AGENTS}}})",
                    COUNT,
                ),
                Value("Table", f"max by (instance) (podtally_table_fill_ratio{{{AGENTS}}})", SHARE),
                Value("Slots", f"max by (instance) (podtally_table_slots{{{AGENTS}}})", COUNT),
                Value(
                    "Memory",
                    f"max by (instance) (process_resident_memory_bytes{{{AGENTS}}} "
                    "and on (instance, job) podtally_build_info)",
                    BYTES,
                ),
                Value(
                    "Connection tracker",
                    f"max by (instance) (podtally_conntrack_available{{{AGENTS}}})",
                    YES_NO,
                ),
                Value("Answers", f"min by (instance) ({_UP})", YES_NO),
            ),
            Look(COUNT, 16, 7),
        ),
        table(
            "Versions",
            "More than one: an upgrade is under way, or stuck.",
            (Column("version", "Version"),),
            (Value("Agents", f"count by (version) (podtally_build_info{{{AGENTS}}})", COUNT),),
            Look(COUNT, 8, 7),
        ),
    ),
)

_LOAD = Row(
    "Keeping up",
    (
        now(
            "podtally_table_fill_ratio",
            "Table",
            "Share of a half's slots in use; above a half new flows begin to overflow.",
            Look(SHARE, 8, 7, _FILL),
        ),
        lines(
            "Bytes without a flow",
            "Overflow: the table was full. Raise max_flows.",
            Line(
                f'sum by (instance) (rate({_BOOKS}{{{AGENTS},account="overflow"}}'
                "[$__rate_interval]))",
                NODE,
            ),
            Look(BYTES_PER_SECOND, 8, 7),
        ),
        rate_of(
            "podtally_probes_failed_total",
            "Packets without a slot",
            "Their bytes are booked as overflow.",
            THIRD_RATE,
        ),
        lines(
            "Epochs, 99th percentile",
            "Work: from the flip to the end of the epoch's work; lateness: how much later than due "
            "it began; swap: flip and fence. Lateness near an epoch's length: the node is starved.",
            (
                Line(_quantile("podtally_epoch_duration_seconds"), f"{NODE} work"),
                Line(_quantile("podtally_epoch_lateness_seconds"), f"{NODE} lateness"),
                Line(_quantile("podtally_swap_seconds"), f"{NODE} swap"),
            ),
            Look(SECONDS, 8, 7),
        ),
        now("podtally_epoch_flows", "Flows an epoch", "In the last epoch.", THIRD),
        now("podtally_open_connections", "Open connections", "Connections under way.", THIRD),
        rate_of(
            "podtally_flow_series_limited_total",
            "Flows that went to other",
            "The limit of series was reached: sums stay exact, labels are lost. Raise "
            "series_limit, or find who makes so many.",
            THIRD_RATE,
        ),
        rate_of(
            "podtally_connections_began_unknown_total",
            "Beginnings that nobody saw",
            "Connections of before the agent, or whose first packets it did not see: their port is "
            "unknown.",
            THIRD_RATE,
        ),
        rate_of(
            "podtally_netlink_resyncs_total",
            "Netlink overruns",
            "All links were read anew; nothing is lost by it.",
            THIRD_RATE,
        ),
    ),
)

AGENT = Dashboard(
    "agent",
    "Agent",
    "The agents' own health: do they answer, keep up, name and write, and what they cost.",
    (CLUSTER, _JOB, INSTANCE),
    (_ORDER, _LOAD, NAMES, WRITING, COST),
)

# SPDX-License-Identifier: Apache-2.0
"""The Agent dashboard: health, load, names, logs and resource usage of the agents."""

from dashboards.generator.agent_work import COST, NAMES, WRITING
from dashboards.generator.by_node import NODE, THIRD, THIRD_RATE, now, per_second, rate_of
from dashboards.generator.model import Dashboard, Row, Variable
from dashboards.generator.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BELOW_ALL_IS_BAD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
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
    """The 99th percentile of epochs; nothing where no epoch was counted."""
    buckets = per_second(f"{histogram}_bucket", "le")
    return f"histogram_quantile(0.99, {buckets})"


def _sum(metric: str) -> str:
    return f"sum({metric}{{{AGENTS}}})"


_ORDER = Row(
    "Agent health",
    (
        number(
            "Agents up",
            "Share of the scraped agents that respond. The kernel programs of an agent that is "
            "down keep counting, and it books the counts when it is back, unless the node "
            "restarts or the table fills up. The table below shows which one is down.",
            share(f"sum({_UP})", f"count({_UP})"),
            SHARE,
            BELOW_ALL_IS_BAD,
            to="operations.md#podtallyagentdown",
            empty="no agent scraped",
        ),
        number(
            "Gap in the books",
            "Byte accounting mismatch: interface counters less booked bytes, either way. Not 0: "
            "look for foreign programs below, and for queueing disciplines that drop.",
            f"sum(abs(podtally_books_gap_bytes{{{AGENTS}}}))",
            BYTES,
            ANY_IS_BAD,
            to="operations.md#podtallybooksdonotclose",
            empty="no agent scraped",
        ),
        number(
            "Fullest table",
            "Share of the flow table's slots that the last epoch used. Above one half, new flows "
            "start to overflow: raise max_flows.",
            f"max(podtally_table_fill_ratio{{{AGENTS}}})",
            SHARE,
            _FILL,
            to="operations.md#podtallytablenearlyfull",
            empty="no agent scraped",
        ),
        number(
            "Interfaces without an owner",
            "Watched interfaces with no known owner: their traffic is in the books, but in no "
            "pod's series. Name them in endpoints:, or give the agent access to the Kubernetes "
            "API.",
            _sum("podtally_unnamed_interfaces"),
            COUNT,
            ANY_IS_ODD,
            to="operations.md#podtallyunattributed",
            empty="no agent scraped",
        ),
        number(
            "Attach errors",
            "Interfaces that could not be watched in the selected time range; the agent's log "
            "says why.",
            or_zero(grown("podtally_attach_errors_total", AGENTS)),
            COUNT,
            ANY_IS_BAD,
            to="operations.md#podtallyattachfails",
            empty="no agent scraped",
        ),
        number(
            "Programs ahead of podtally",
            "Other eBPF programs that run before podtally's and can hide packets from it.",
            or_zero(_sum("podtally_foreign_programs")),
            COUNT,
            ANY_IS_ODD,
            to="operations.md#podtallyforeignprogram",
            empty="none reported",
        ),
        table(
            "Agents",
            "One row for each node.",
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
                Value("Up", f"min by (instance) ({_UP})", YES_NO),
            ),
            Look(COUNT, 16, 7),
        ),
        table(
            "Versions",
            "More than one: an upgrade is in progress, or stuck.",
            (Column("version", "Version"),),
            (Value("Agents", f"count by (version) (podtally_build_info{{{AGENTS}}})", COUNT),),
            Look(COUNT, 8, 7),
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        now(
            "podtally_table_fill_ratio",
            "Flow table in use",
            "Share of the slots; above one half, new flows start to overflow.",
            Look(SHARE, 8, 7, _FILL),
        ),
        lines(
            "Overflow bytes",
            "Bytes that are in no flow because the table had no slot. Raise max_flows.",
            Line(
                f'sum by (instance) (rate({_BOOKS}{{{AGENTS},account="overflow"}}'
                "[$__rate_interval]))",
                NODE,
            ),
            Look(BYTES_PER_SECOND, 8, 7),
        ),
        rate_of(
            "podtally_table_overflow_packets_total",
            "Overflow packets",
            "Packets of flows that found no slot; their bytes are booked as overflow.",
            THIRD_RATE,
        ),
        lines(
            "Epoch timing, 99th percentile",
            "Work: from the flip of the table's halves to the end of the epoch. Lateness: how "
            "much later than due it started. Swap: flip and fence. Lateness close to the length "
            "of an epoch: the node is short of CPU.",
            (
                Line(_quantile("podtally_epoch_duration_seconds"), f"{NODE} work"),
                Line(_quantile("podtally_epoch_lateness_seconds"), f"{NODE} lateness"),
                Line(_quantile("podtally_swap_seconds"), f"{NODE} swap"),
            ),
            Look(SECONDS, 8, 7, empty="no slot was missing"),
        ),
        now("podtally_epoch_flows", "Flows in an epoch", "Flows in the last epoch.", THIRD),
        now(
            "podtally_open_connections", "Open connections", "Connections that are open now.", THIRD
        ),
        rate_of(
            "podtally_flow_series_limited_total",
            "Series limited to other",
            "Connections that got a series under other because their endpoint used its share of "
            "series_limit. Sums stay exact, labels are lost. Raise series_limit, or find the "
            "workload that creates this many.",
            THIRD_RATE,
        ),
        rate_of(
            "podtally_connections_unknown_initiator_total",
            "Connections with unknown initiator",
            "Connections that are older than the agent, or began where it did not see them. "
            "Their port is unknown.",
            THIRD_RATE,
        ),
        rate_of(
            "podtally_netlink_resyncs_total",
            "Netlink overruns",
            "Netlink messages were lost and all links were read again; no counts are lost.",
            THIRD_RATE,
        ),
    ),
)

AGENT = Dashboard(
    "agent",
    "Agent",
    "Health of the agents: are they up, do they keep up, name traffic and write, and what do "
    "they cost.",
    (CLUSTER, _JOB, INSTANCE),
    (_ORDER, _LOAD, NAMES, WRITING, COST),
)

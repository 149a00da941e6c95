# SPDX-License-Identifier: Apache-2.0
"""The Egress dashboard: unexpected egress first, then destinations, scopes and cost."""

from dashboards.generator.flows import COST, DENIED, INTERNET, NEW, flows_row
from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    DOLLARS,
    Column,
    Counted,
    Line,
    Look,
    Value,
    by_verdict,
    growth_table,
    labels,
    lines,
    number,
    table,
)
from dashboards.generator.queries import (
    CLUSTER,
    NAMESPACE,
    WORKLOAD,
    WORKLOADS,
    grown,
    or_zero,
    rate,
)

_FLOWS, _CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
_DENIED, _COST = "podtally_policy_denied_total", "podtally_egress_cost_dollars_total"
_COST_IN = "podtally_ingress_cost_dollars_total"
_OUT = f'{WORKLOADS},direction="egress"'
_INTERNET = f'{_OUT},scope="internet"'
_UNDECLARED = f'{_INTERNET},verdict="undeclared"'
_METADATA = f'{_OUT},peer_workload="metadata"'

_WORKLOAD = (Column("namespace", "Namespace"), Column("workload", "Workload"))
_PEER = (
    Column("peer_kind", "Kind"),
    Column("peer_namespace", "To namespace"),
    Column("peer_workload", "To"),
)
_SCOPE = Column("scope", "Scope")
_PORT = (Column("protocol", "Protocol"), Column("port", "Port"))
_DESTINATION = (*_WORKLOAD, *_PEER, _SCOPE, *_PORT)


def _new() -> str:
    """Return a query for destinations with traffic in the range and none in the range before it.

    It finds nothing where Prometheus did not scrape podtally before the range.
    """
    by = ", ".join(labels(_DESTINATION))
    before = f"last_over_time({_FLOWS}{{{_OUT}}}[$__range] offset $__range)"
    return (
        f"({grown(_FLOWS, _OUT, *labels(_DESTINATION))} > 0)\n"
        f"unless sum by ({by}) ({before})\n"
        "and on () count(podtally_build_info offset $__range)"
    )


_UNEXPECTED = Row(
    "Unexpected",
    (
        number(
            "Denied egress",
            "Connections in the selected time range that pods opened and policies deny. They "
            "took place unless the CNI blocked them.",
            or_zero(grown(_DENIED, _OUT)),
            COUNT,
            ANY_IS_BAD,
            to="policy",
            empty="no agent scraped",
        ),
        number(
            "Undeclared, to the internet",
            "Connections to public addresses from pods that no egress policy isolates. Declare "
            "what they may reach; the rest deserves a look.",
            or_zero(grown(_CONNECTIONS, _UNDECLARED)),
            COUNT,
            ANY_IS_ODD,
            to="policy.md",
            empty="no agent scraped",
        ),
        number(
            "Metadata address",
            "Connections to 169.254.169.254, where clouds hand out credentials. Few workloads "
            "need it.",
            or_zero(grown(_CONNECTIONS, _METADATA)),
            COUNT,
            ANY_IS_ODD,
            to="operations.md#podtallyegresstometadata",
            empty="no agent scraped",
        ),
        number(
            "To the internet",
            "Bytes in the selected time range.",
            or_zero(grown(_FLOWS, _INTERNET)),
            BYTES,
            to="overview",
            empty="no agent scraped",
        ),
        number(
            "All egress",
            "Bytes in the selected time range, to all destinations.",
            or_zero(grown(_FLOWS, _OUT)),
            BYTES,
            to="overview",
            empty="no agent scraped",
        ),
        number(
            "Cost of egress",
            "Estimate for the selected time range, by the prices in the agents' configuration; a "
            "scope without a price costs nothing.",
            or_zero(grown(_COST, WORKLOADS)),
            DOLLARS,
            to="configuration.md#prices",
            empty="no prices configured",
        ),
        table(
            "Denied",
            "By the policy that decides. Either a rule is missing, or the workload does what it "
            "should not; the event log has addresses and reasons.",
            (*_WORKLOAD, *_PEER, *_PORT, Column("policy", "Policy")),
            (
                Value(
                    "Connections",
                    grown(_DENIED, _OUT, *labels((*_WORKLOAD, *_PEER, *_PORT)), "policy"),
                    COUNT,
                ),
            ),
            Look(COUNT, 24, empty="no egress is denied"),
        ),
        growth_table(
            "Undeclared, to the internet, by workload",
            "Which workloads open them, and to which port. To is a network of the configuration, "
            "or empty; the flow log has addresses.",
            (*_WORKLOAD, Column("peer_workload", "To"), *_PORT),
            Counted("Connections", _CONNECTIONS, _UNDECLARED),
            Look(COUNT, 12, empty="no undeclared connection to the internet"),
        ),
        table(
            "To the metadata address",
            "Which workloads connect to 169.254.169.254, and the verdict of policy.",
            (*_WORKLOAD, *_PORT, Column("verdict", "Verdict")),
            (
                Value(
                    "Connections",
                    grown(_CONNECTIONS, _METADATA, *labels((*_WORKLOAD, *_PORT)), "verdict"),
                    COUNT,
                ),
            ),
            Look(COUNT, 12, empty="no connection to the metadata address"),
        ),
        table(
            "New destinations",
            "Traffic in the selected time range, and none in the range of the same length before "
            "it; select a day to compare with yesterday. Outside the cluster, a destination is a "
            "network of the configuration, or its whole scope on that port.",
            _DESTINATION,
            (Value("Bytes", _new(), BYTES),),
            Look(BYTES, 24, empty="nothing new, or Prometheus does not reach back so far"),
        ),
    ),
)

_DESTINATIONS = Row(
    "Destinations",
    (
        table(
            "Destinations",
            "Bytes in the selected time range. It does not matter which end opened the "
            "connection: the responses of servers are egress, too.",
            (*_DESTINATION, Column("verdict", "Verdict")),
            (
                Value("Sent", grown(_FLOWS, _OUT, *labels(_DESTINATION), "verdict"), BYTES),
                Value("Rate", rate(_FLOWS, _OUT, *labels(_DESTINATION), "verdict"), "Bps"),
            ),
            Look(BYTES, 24, 10),
        ),
        lines(
            "To the internet, by workload",
            "The ten workloads that send most.",
            Line(
                f"topk(10, {rate(_FLOWS, _INTERNET, 'namespace', 'workload')})",
                "{{namespace}}/{{workload}}",
            ),
            Look(BYTES_PER_SECOND, 12),
        ),
        by_verdict(
            "Egress by verdict",
            "Bytes that leave pods, by the verdict on their connection.",
            rate(_FLOWS, _OUT, "verdict"),
            BYTES_PER_SECOND,
            12,
        ),
    ),
)

_SCOPES = Row(
    "Scopes",
    (
        lines(
            "Egress by scope",
            "By distance of the peer. Clouds bill cross_zone inside a region; cluster: zones are "
            "not known.",
            Line(rate(_FLOWS, _OUT, "scope"), "{{scope}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        lines(
            "Now and a week ago",
            "All egress, next to the same time last week; without a week of history there is one "
            "line.",
            (
                Line(rate(_FLOWS, _OUT), "now"),
                Line(f"sum(rate({_FLOWS}{{{_OUT}}}[$__rate_interval] offset 1w))", "a week ago"),
            ),
            Look(BYTES_PER_SECOND, 12),
        ),
    ),
)

_COSTS = Row(
    "Cost",
    (
        lines(
            "Dollars per hour, by namespace",
            "Egress at the current rate, by the prices of the configuration: an estimate, not "
            "the bill.",
            Line(f"{rate(_COST, WORKLOADS, 'namespace')} * 3600", "{{namespace}}"),
            Look(
                DOLLARS,
                12,
                stacked=True,
                empty="no prices configured (prices:), or no traffic with a price",
            ),
        ),
        lines(
            "Dollars per hour, by scope",
            "At the current rate; ingress has no price unless the configuration sets one.",
            (
                Line(f"{rate(_COST, WORKLOADS, 'scope')} * 3600", "egress {{scope}}"),
                Line(f"{rate(_COST_IN, WORKLOADS, 'scope')} * 3600", "ingress {{scope}}"),
            ),
            Look(
                DOLLARS,
                12,
                stacked=True,
                empty="no prices configured (prices:), or no traffic with a price",
            ),
        ),
        table(
            "Cost by workload",
            "In the selected time range, and projected to 30 days.",
            (*_WORKLOAD, _SCOPE),
            (
                Value("Cost", grown(_COST, WORKLOADS, *labels((*_WORKLOAD, _SCOPE))), DOLLARS),
                Value(
                    "In 30 days",
                    grown(_COST, WORKLOADS, *labels((*_WORKLOAD, _SCOPE)))
                    + " / $__range_s * 2592000",
                    DOLLARS,
                ),
            ),
            Look(DOLLARS, 24, empty="no prices configured (prices:), or no traffic with a price"),
        ),
    ),
)

_BEHIND = flows_row(DENIED, INTERNET, NEW, COST)

EGRESS = Dashboard(
    "egress",
    "Egress",
    "What leaves pods: unexpected egress first, then destinations, scopes and cost.",
    (CLUSTER, NAMESPACE, WORKLOAD),
    (_UNEXPECTED, _DESTINATIONS, _SCOPES, _COSTS, _BEHIND),
)

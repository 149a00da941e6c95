# SPDX-License-Identifier: Apache-2.0
"""The Pod dashboard: one workload's traffic, peers, ports and verdicts."""

from dataclasses import replace

from dashboards.generator.flows import DENIED, EVERYTHING, FAILED, flows_row
from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    ANY_IS_BAD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    Column,
    Counted,
    Line,
    Look,
    Value,
    by_verdict,
    growth_table,
    lines,
    number,
    service_map,
    table,
)
from dashboards.generator.queries import (
    CLUSTER,
    NAMESPACE,
    ONE_WORKLOAD,
    WORKLOAD,
    grown,
    or_zero,
    rate,
)

_FLOWS, _CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
_OUT, _IN = f'{ONE_WORKLOAD},direction="egress"', f'{ONE_WORKLOAD},direction="ingress"'
_PEER = ("peer_kind", "peer_namespace", "peer_workload", "scope")
_PEER_LEGEND = "{{peer_kind}} {{peer_namespace}} {{peer_workload}} ({{scope}})"
# Pods have the names that their workload gives them: its own, or its own and a suffix.
_PODS = 'cluster=~"$cluster",namespace="$namespace",pod=~"$workload(-.*)?"'
_PEERS = (
    Column("direction", "Direction"),
    Column("peer_kind", "Kind"),
    Column("peer_namespace", "Peer's namespace"),
    Column("peer_workload", "Peer"),
)
_PORT = (Column("protocol", "Protocol"), Column("port", "Port"))
_BOTH = ("direction", *_PEER, "protocol", "port", "verdict")
_WIDE = Look(BYTES_PER_SECOND, 12)

_NOW = Row(
    "$namespace / $workload",
    (
        number(
            "Sends",
            "Current rate.",
            or_zero(rate(_FLOWS, _OUT)),
            BYTES_PER_SECOND,
            to="metrics.md",
            empty="no such workload",
        ),
        number(
            "Receives",
            "Current rate.",
            or_zero(rate(_FLOWS, _IN)),
            BYTES_PER_SECOND,
            to="metrics.md",
            empty="no such workload",
        ),
        number(
            "New connections/s",
            "Connections that it opens; a pooled connection is opened once.",
            or_zero(rate(_CONNECTIONS, _OUT)),
            PER_SECOND,
            to="metrics.md",
            empty="no such workload",
        ),
        number(
            "To the internet",
            "Bytes to public addresses in the selected time range.",
            or_zero(grown(_FLOWS, f'{_OUT},scope="internet"')),
            BYTES,
            to="egress",
            empty="no such workload",
        ),
        number(
            "Denied connections",
            "In the selected time range, by the policies of this workload. The table below shows "
            "which.",
            or_zero(grown("podtally_policy_denied_total", ONE_WORKLOAD)),
            COUNT,
            ANY_IS_BAD,
            to="policy",
            empty="no such workload",
        ),
        number(
            "Undeclared exposure",
            "Connections from outside the cluster in the selected time range that no Ingress or "
            "Service declares.",
            or_zero(grown("podtally_undeclared_exposure_connections_total", ONE_WORKLOAD)),
            COUNT,
            ANY_IS_BAD,
            to="policy",
            empty="no such workload",
        ),
        growth_table(
            "Denied",
            "Connections in the selected time range that policies of this workload deny. Policy "
            "is the policy that decides; the event log has the reason. Either a rule is missing, "
            "or the workload does what it should not.",
            (*_PEERS, *_PORT, Column("policy", "Policy")),
            Counted("Connections", "podtally_policy_denied_total", ONE_WORKLOAD),
            Look(COUNT, 24, 5, empty="nothing is denied by policies of this workload"),
        ),
    ),
)

_TRAFFIC = Row(
    "Traffic",
    (
        lines(
            "Egress by peer",
            "The ten peers that it sends most to. A peer without a name is shown by its scope.",
            Line(f"topk(10, {rate(_FLOWS, _OUT, *_PEER)})", _PEER_LEGEND),
            _WIDE,
        ),
        lines(
            "Ingress by peer",
            "The ten that it receives most from.",
            Line(f"topk(10, {rate(_FLOWS, _IN, *_PEER)})", _PEER_LEGEND),
            _WIDE,
        ),
        lines(
            "Bytes by port",
            "Both directions; the port is the server's, at whichever end. unknown: the opening of "
            "the connection was not seen. 0: the protocol has no ports.",
            Line(
                f"topk(10, {rate(_FLOWS, ONE_WORKLOAD, 'protocol', 'port')})",
                "{{protocol}} {{port}}",
            ),
            _WIDE,
        ),
        lines(
            "Pods",
            "All bytes of pods of this workload's name (WORKLOAD or WORKLOAD-...), those without a "
            "flow included. Another workload with a name that begins so is in it as well.",
            (
                Line(
                    rate("podtally_pod_bytes_total", f'{_PODS},direction="egress"', "pod"),
                    "{{pod}} sends",
                ),
                Line(
                    rate("podtally_pod_bytes_total", f'{_PODS},direction="ingress"', "pod"),
                    "{{pod}} receives",
                ),
            ),
            _WIDE,
        ),
        lines(
            "Connections",
            "Opened by this workload (egress) and by its peers (ingress).",
            Line(rate(_CONNECTIONS, ONE_WORKLOAD, "direction"), "{{direction}}"),
            Look(PER_SECOND, 12),
        ),
        by_verdict(
            "Connections by verdict",
            "podtally blocks nothing: denied connections took place unless the CNI blocked them.",
            rate(_CONNECTIONS, ONE_WORKLOAD, "verdict"),
            PER_SECOND,
            12,
        ),
    ),
)

_DETAILS = Row(
    "Peers, ports and verdicts in the selected time range",
    (
        table(
            "Peers",
            "For Bytes, egress is what this workload sends; for Connections, what it opens.",
            (*_PEERS, Column("scope", "Scope"), *_PORT, Column("verdict", "Verdict")),
            (
                Value("Bytes", grown(_FLOWS, ONE_WORKLOAD, *_BOTH), BYTES),
                Value("Connections", grown(_CONNECTIONS, ONE_WORKLOAD, *_BOTH), COUNT),
            ),
            Look(BYTES, 24, 10, empty="no traffic in this time range"),
        ),
        service_map(
            "Map of this workload, in kB/s",
            "What it sends and receives now, and with which peers, in the colour of the verdict.",
            ONE_WORKLOAD,
            10,
        ),
    ),
)

_BEHIND = flows_row(EVERYTHING, DENIED, FAILED)

POD = Dashboard(
    "pod",
    "Pod",
    "One workload: ingress and egress, peers, ports, verdicts and connections.",
    (CLUSTER, replace(NAMESPACE, single=True), replace(WORKLOAD, single=True)),
    (_NOW, _TRAFFIC, _DETAILS, _BEHIND),
)

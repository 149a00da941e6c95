# SPDX-License-Identifier: Apache-2.0
"""The overview: is everything in order, who talks most, to whom, and do the books close."""

from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    Column,
    Line,
    Look,
    Value,
    by_verdict,
    lines,
    number,
    service_map,
    table,
)
from dashboards.generator.queries import (
    AGENTS,
    CLUSTER,
    INSTANCE,
    NAMESPACE,
    WORKLOAD,
    WORKLOADS,
    grown,
    or_zero,
    rate,
)

_FLOWS, _BOOKS = "podtally_flow_bytes_total", "podtally_books_bytes_total"
_CHOSEN = f'{WORKLOADS},instance=~"$instance"'
_OUT, _IN = f'{_CHOSEN},direction="egress"', f'{_CHOSEN},direction="ingress"'
_INTERNET = f'{_OUT},scope="internet"'
_CLUSTER = 'cluster=~"$cluster"'

_ORDER = Row(
    "Is everything in order?",
    (
        number(
            "Nodes that are watched",
            "Agents that Prometheus hears now.",
            f"count(podtally_build_info{{{AGENTS}}})",
            COUNT,
        ),
        number(
            "Agents that do not answer",
            "Of jobs that had an agent in the chosen time. A silent one still counts in the "
            "kernel; the Agent dashboard says which it is. One that is not scraped at all is not "
            "among them.",
            or_zero(
                f"count(up{{{AGENTS}}} == 0\n"
                f"and on (job) last_over_time(podtally_build_info{{{_CLUSTER}}}[$__range]))"
            ),
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "Gap in the books",
            "Bytes that interfaces counted and podtally did not book, or the other way round. "
            "0 means that every byte is accounted for. Not 0: a program of somebody else hides "
            "packets, or a counter lies; the Agent dashboard shows foreign programs.",
            f"sum(abs(podtally_books_gap_bytes{{{AGENTS}}}))",
            BYTES,
            ANY_IS_BAD,
        ),
        number(
            "Denied connections",
            "Connections in the chosen time that declared policies deny. podtally stops nothing: "
            "they took place unless the CNI stopped them. The Policy dashboard says which.",
            or_zero(grown("podtally_policy_denied_total", _CHOSEN)),
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "Undeclared exposure",
            "Connections in the chosen time from outside the cluster to pods that no Ingress, "
            "LoadBalancer, NodePort or external IP declares. Needs the Kubernetes API.",
            or_zero(grown("podtally_undeclared_exposure_connections_total", _CHOSEN)),
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "To the internet",
            "What leaves the cluster for public addresses. The Egress dashboard says whose it is.",
            or_zero(rate(_FLOWS, _INTERNET)),
            BYTES_PER_SECOND,
        ),
        table(
            "Alerts",
            "What the rules of podtally find now: pending has not yet held for long enough to "
            "notify anybody. docs/operations.md has a section for each, by its name. Empty: all is "
            "quiet, or Prometheus does not have the rules.",
            (
                Column("severity", "Severity"),
                Column("alertname", "Alert"),
                Column("alertstate", "State"),
            ),
            (
                Value(
                    "Times",
                    "count by (severity, alertname, alertstate) "
                    f'(ALERTS{{{_CLUSTER},alertname=~"Podtally.*"}})',
                    COUNT,
                ),
            ),
            Look(COUNT, 24, 6),
        ),
    ),
)

_TRAFFIC = Row(
    "Traffic",
    (
        lines(
            "Egress by scope",
            "What leaves pods, by how far it goes: the same node, zone, another zone, private "
            "addresses, the internet. A Service is as far away as the pod that answered.",
            Line(rate(_FLOWS, _OUT, "scope"), "{{scope}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        lines(
            "Ingress by scope",
            "What reaches pods, by where it comes from.",
            Line(rate(_FLOWS, _IN, "scope"), "{{scope}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        by_verdict(
            "Connections by verdict",
            "New connections, at each end that is watched. Undeclared: no policy says anything. "
            "Unknown: it cannot be told; the Policy dashboard says why.",
            rate("podtally_connections_total", _CHOSEN, "verdict"),
            PER_SECOND,
            12,
        ),
        lines(
            "Pods' egress by node",
            "All that pods send, their bytes without a flow included; a pod without a name is in "
            "none of them yet.",
            Line(
                rate(
                    "podtally_pod_bytes_total",
                    f'{AGENTS},namespace=~"$namespace",direction="egress"',
                    "instance",
                ),
                "{{instance}}",
            ),
            Look(BYTES_PER_SECOND, 12),
        ),
    ),
)

_WORKLOAD = (Column("namespace", "Namespace"), Column("workload", "Workload"))

_TALKERS = Row(
    "Top talkers",
    (
        table(
            "Workloads",
            "Rates now. A workload's name leads to its own dashboard.",
            _WORKLOAD,
            (
                Value("Sent", rate(_FLOWS, _OUT, "namespace", "workload"), BYTES_PER_SECOND),
                Value("Received", rate(_FLOWS, _IN, "namespace", "workload"), BYTES_PER_SECOND),
                Value(
                    "To the internet",
                    rate(_FLOWS, _INTERNET, "namespace", "workload"),
                    BYTES_PER_SECOND,
                ),
                Value(
                    "Connections",
                    rate("podtally_connections_total", _CHOSEN, "namespace", "workload"),
                    PER_SECOND,
                ),
            ),
            Look(BYTES_PER_SECOND, 12, 10),
        ),
        table(
            "Who sends to whom",
            "The 50 busiest pairs now, by the sender's books.",
            (
                *_WORKLOAD,
                Column("peer_namespace", "To namespace"),
                Column("peer_workload", "To"),
                Column("scope", "Scope"),
            ),
            (
                Value(
                    "Sent",
                    "topk(50, "
                    + rate(
                        _FLOWS,
                        _OUT,
                        *("namespace", "workload", "peer_namespace", "peer_workload", "scope"),
                    )
                    + ")",
                    BYTES_PER_SECOND,
                ),
            ),
            Look(BYTES_PER_SECOND, 12, 10),
        ),
    ),
)

_MAP = Row(
    "Service map",
    (
        service_map(
            "Who sends to whom, in kB/s",
            "An arrow is bytes now, in the direction they go, in the colour of their verdict: "
            "green allowed, red denied, yellow undeclared, grey unknown (Grafana 10 has grey and, "
            "since 10.3, red). A circle's number is what it receives. The 150 busiest arrows "
            "are shown; narrow it down by namespace. A click leads to a workload.",
            _CHOSEN,
        ),
    ),
)

_CLOSING = Row(
    "Books",
    (
        lines(
            "Bytes booked, by account",
            "Flows; other: not IP, or cut short; overflow: no slot in the table. Their sum is what "
            "the interfaces counted.",
            Line(rate(_BOOKS, AGENTS, "account"), "{{account}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        lines(
            "Gap by node",
            "The largest gap of an interface, either way. It is 0 under load, too; a loss shows at "
            "the latest when traffic rests.",
            Line(f"max by (instance) (abs(podtally_books_gap_bytes{{{AGENTS}}}))", "{{instance}}"),
            Look(BYTES, 12, steps=ANY_IS_ODD),
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Clusters and nodes: rates by scope, top talkers, verdicts, the map, whether the books close.",
    (CLUSTER, INSTANCE, NAMESPACE, WORKLOAD),
    (_ORDER, _TRAFFIC, _TALKERS, _MAP, _CLOSING),
)

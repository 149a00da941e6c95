# SPDX-License-Identifier: Apache-2.0
"""The Overview dashboard: health, alerts, top talkers, the service map, and the books."""

from dashboards.generator.flows import DENIED, EVERYTHING, flows_row
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
    "Health",
    (
        number(
            "Nodes watched",
            "Agents that Prometheus scrapes successfully now.",
            f"count(podtally_build_info{{{AGENTS}}})",
            COUNT,
            to="agent",
            empty="no agent scraped",
        ),
        number(
            "Agents down",
            "In jobs that had an agent in the selected time range. The kernel programs of an "
            "agent that is down keep counting; the Agent dashboard shows which one it is. Agents "
            "that are not scraped at all are not included.",
            or_zero(
                f"count(up{{{AGENTS}}} == 0\n"
                f"and on (job) last_over_time(podtally_build_info{{{_CLUSTER}}}[$__range]))"
            ),
            COUNT,
            ANY_IS_BAD,
            to="agent",
            empty="no agent scraped",
        ),
        number(
            "Gap in the books",
            "Byte accounting mismatch: bytes that interfaces counted and podtally did not book, "
            "or the other way round. 0: every byte is accounted for. Not 0: another program "
            "hides packets, or a counter is wrong; the Agent dashboard shows foreign programs.",
            f"sum(abs(podtally_books_gap_bytes{{{AGENTS}}}))",
            BYTES,
            ANY_IS_BAD,
            to="operations.md#podtallybooksdonotclose",
            empty="no agent scraped",
        ),
        number(
            "Denied connections",
            "Connections in the selected time range that policies deny. podtally blocks nothing: "
            "they took place unless the CNI blocked them. The Policy dashboard shows which.",
            or_zero(grown("podtally_policy_denied_total", _CHOSEN)),
            COUNT,
            ANY_IS_BAD,
            to="policy",
            empty="no agent scraped",
        ),
        number(
            "Undeclared exposure",
            "Connections in the selected time range from outside the cluster to pods that no "
            "Ingress, LoadBalancer, NodePort or external IP declares. Needs the Kubernetes API.",
            or_zero(grown("podtally_undeclared_exposure_connections_total", _CHOSEN)),
            COUNT,
            ANY_IS_BAD,
            to="policy",
            empty="no agent scraped",
        ),
        number(
            "To the internet",
            "Egress to public addresses. The Egress dashboard shows the workloads.",
            or_zero(rate(_FLOWS, _INTERNET)),
            BYTES_PER_SECOND,
            to="egress",
            empty="no agent scraped",
        ),
        table(
            "Alerts",
            "Alerts of podtally's rules now; a pending alert has not yet held for long enough to "
            "notify. docs/operations.md has a section for each alert. Empty: no alert, or "
            "Prometheus does not have the rules.",
            (
                Column("severity", "Severity"),
                Column("alertname", "Alert"),
                Column("alertstate", "State"),
            ),
            (
                Value(
                    "Count",
                    "count by (severity, alertname, alertstate) "
                    f'(ALERTS{{{_CLUSTER},alertname=~"Podtally.*"}})',
                    COUNT,
                ),
            ),
            Look(COUNT, 24, 6, empty="no alert, or Prometheus does not have podtally's rules"),
        ),
    ),
)

_TRAFFIC = Row(
    "Traffic",
    (
        lines(
            "Egress by scope",
            "What leaves pods, by distance: the same node, the same zone, another zone, private "
            "addresses, the internet. A Service is as far away as its backend.",
            Line(rate(_FLOWS, _OUT, "scope"), "{{scope}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        lines(
            "Ingress by scope",
            "What reaches pods, by the distance of its source.",
            Line(rate(_FLOWS, _IN, "scope"), "{{scope}}"),
            Look(BYTES_PER_SECOND, 12, stacked=True),
        ),
        by_verdict(
            "Connections by verdict",
            "New connections, at each watched end. Undeclared: no policy covers them. Unknown: "
            "podtally cannot decide; the Policy dashboard shows why.",
            rate("podtally_connections_total", _CHOSEN, "verdict"),
            PER_SECOND,
            12,
        ),
        lines(
            "Pod egress by node",
            "All bytes that pods send, including those in no flow; pods without a name yet are "
            "not included.",
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
            "Current rates. A workload's name links to its dashboard.",
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
            Look(BYTES_PER_SECOND, 12, 10, empty="no traffic now from what is selected"),
        ),
        table(
            "Who sends to whom",
            "The 50 busiest pairs now, as the sender counts.",
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
            Look(BYTES_PER_SECOND, 12, 10, empty="no traffic now between what is selected"),
        ),
    ),
)

_MAP = Row(
    "Service map",
    (
        service_map(
            "Who sends to whom, in kB/s",
            "An arrow shows the current rate in the direction of the bytes, in the colour of the "
            "verdict: green allowed, red denied, yellow undeclared, grey unknown (Grafana 10 has "
            "grey and, since 10.3, red). The number in a circle is what it receives. The 150 "
            "busiest arrows are shown; filter by namespace for others. A click opens the "
            "workload.",
            _CHOSEN,
        ),
    ),
)

_BALANCE = Row(
    "Books",
    (
        lines(
            "Bytes booked, by account",
            "flows: bytes of flows; other: not IP, or truncated; overflow: no slot in the table. "
            "With the drops they sum to what the interfaces counted.",
            Line(rate(_BOOKS, AGENTS, "account"), "{{account}}"),
            Look(BYTES_PER_SECOND, 8, stacked=True),
        ),
        lines(
            "Dropped bytes, by kind",
            "Bytes that only one side counted. before_hook: counted by the interface, then dropped "
            "before podtally (XDP, backlog); after_hook: booked, then dropped (a pod's interface "
            "is down, a qdisc is full); header: Ethernet headers that some drivers do not count.",
            Line(rate("podtally_books_drops_bytes_total", AGENTS, "kind"), "{{kind}}"),
            Look(BYTES_PER_SECOND, 8, stacked=True, empty="nothing was dropped"),
        ),
        lines(
            "Gap by node",
            "The largest byte accounting mismatch of an interface, either way. It is 0 under "
            "load, too; a loss shows as soon as traffic pauses.",
            Line(f"max by (instance) (abs(podtally_books_gap_bytes{{{AGENTS}}}))", "{{instance}}"),
            Look(BYTES, 8, steps=ANY_IS_ODD),
        ),
    ),
)

_BEHIND = flows_row(EVERYTHING, DENIED)

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Clusters and nodes: health, alerts, traffic by scope, top talkers, verdicts, the service "
    "map, the books.",
    (CLUSTER, INSTANCE, NAMESPACE, WORKLOAD),
    (_ORDER, _TRAFFIC, _TALKERS, _MAP, _BALANCE, _BEHIND),
)

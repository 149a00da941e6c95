# SPDX-License-Identifier: Apache-2.0
"""The Health dashboard: do connections work, how long do handshakes take, how do they end?"""

from dashboards.generator.flows import FAILED, flows_row
from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    Column,
    Counted,
    Line,
    Look,
    Steps,
    growth_table,
    lines,
    number,
)
from dashboards.generator.queries import (
    CLUSTER,
    NAMESPACE,
    WORKLOAD,
    WORKLOADS,
    or_zero,
    rate,
    share,
)

_OUTCOMES = "podtally_connection_outcomes_total"
_ENDINGS = "podtally_connection_endings_total"
_BUCKETS = "podtally_handshake_seconds_bucket"
_RETRANSMITS = "podtally_retransmits_total"
_PACKETS = "podtally_flow_packets_total"
_SENT_TCP = f'{WORKLOADS},protocol="tcp",direction="egress"'
_FAILED = 'protocol="tcp",outcome=~"refused|rejected|unanswered|half_open"'
_FAILED_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("direction", "Direction"),
    Column("peer_kind", "Peer kind"),
    Column("peer_namespace", "Peer namespace"),
    Column("peer_workload", "Peer"),
    Column("protocol", "Protocol"),
    Column("port", "Port"),
    Column("outcome", "Outcome"),
)
_ENDED_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("direction", "Direction"),
    Column("peer_kind", "Peer kind"),
    Column("scope", "Scope"),
    Column("ending", "Ending"),
)
_SENT_AGAIN_BY = (
    Column("namespace", "Namespace"),
    Column("workload", "Workload"),
    Column("peer_kind", "Peer kind"),
    Column("peer_namespace", "Peer namespace"),
    Column("peer_workload", "Peer"),
    Column("scope", "Scope"),
    Column("port", "Port"),
)


def _quantile(which: float, selector: str, *by: str) -> str:
    selected = f"{WORKLOADS},{selector}"
    return f"histogram_quantile({which}, {rate(_BUCKETS, selected, 'le', *by)})"


def _quantiles(selector: str) -> tuple[Line, ...]:
    return tuple(Line(_quantile(each, selector), f"{each:.0%}") for each in (0.5, 0.9, 0.99))


_NUMBERS = Row(
    "At a glance",
    (
        number(
            "Failed connections",
            "Share of TCP connections that were refused, rejected, not answered or not completed.",
            share(
                or_zero(rate(_OUTCOMES, f"{WORKLOADS},{_FAILED}")),
                rate(_OUTCOMES, f'{WORKLOADS},protocol="tcp"'),
            ),
            SHARE,
            Steps(yellow=0.01, red=0.1),
            to="metrics.md#outcomes",
            empty="no TCP connection was decided",
        ),
        number(
            "Reset connections",
            "Share of established connections that one side reset.",
            share(
                or_zero(rate(_ENDINGS, f'{WORKLOADS},ending=~"reset_.*"')),
                rate(_ENDINGS, WORKLOADS),
            ),
            SHARE,
            Steps(yellow=0.05, red=0.25),
            to="metrics.md#outcomes",
            empty="no connection ended",
        ),
        number(
            "Time to answer, 99 %",
            "Of connections that workloads opened: from the first SYN to the SYN/ACK.",
            _quantile(0.99, 'direction="egress",protocol="tcp",step="answer"'),
            SECONDS,
            Steps(yellow=0.25, red=1),
            to="metrics.md#outcomes",
            empty="no handshake was timed",
        ),
    ),
)

_FAILURES = Row(
    "Does it work?",
    (
        lines(
            "Connections by outcome",
            "TCP. unanswered is decided after the silence of 10 to 110 s in which a client would "
            "have repeated its SYN.",
            Line(rate(_OUTCOMES, f'{WORKLOADS},protocol="tcp"', "outcome"), "{{outcome}}"),
            Look(PER_SECOND, 12, stacked=True, empty="no TCP connection was decided"),
        ),
        lines(
            "Other protocols by outcome",
            "unanswered is normal for protocols without answers (syslog, statsd).",
            Line(rate(_OUTCOMES, f'{WORKLOADS},protocol!="tcp"', "outcome"), "{{outcome}}"),
            Look(PER_SECOND, 12, stacked=True, empty="no such connection was decided"),
        ),
        growth_table(
            "Failed TCP connections",
            "In the selected time range. refused: the host is there and the port is closed, or a "
            "firewall resets. rejected: an ICMP error. unanswered: nothing came back.",
            _FAILED_BY,
            Counted("Connections", _OUTCOMES, f"{WORKLOADS},{_FAILED}"),
            Look(COUNT, 24, 9, empty="no connection failed"),
        ),
    ),
)

_TIMES = Row(
    "How long does it take?",
    (
        lines(
            "Time to answer, of servers that workloads use",
            "From the first SYN to the SYN/ACK, at the client: the network both ways.",
            _quantiles('direction="egress",protocol="tcp",step="answer"'),
            Look(SECONDS, 8, empty="no handshake was timed"),
        ),
        lines(
            "Time to complete, of clients of workloads",
            "From the SYN/ACK to the ACK, at the server: the network to the client and back.",
            _quantiles('direction="ingress",protocol="tcp",step="completion"'),
            Look(SECONDS, 8, empty="no handshake was timed"),
        ),
        lines(
            "First answer of UDP",
            "From the first packet to the first answer, of flows that workloads began.",
            _quantiles('direction="egress",protocol="udp",step="answer"'),
            Look(SECONDS, 8, empty="no answer was timed"),
        ),
    ),
)

_ENDS = Row(
    "How does it end?",
    (
        lines(
            "Endings",
            "Of established TCP connections. open: idle for two hours, or the pod was removed.",
            Line(rate(_ENDINGS, WORKLOADS, "ending"), "{{ending}}"),
            Look(PER_SECOND, 8, stacked=True, empty="no connection ended"),
        ),
        lines(
            "Dropped frames",
            "On the interfaces of the selected cluster, of all namespaces. TCP sends them again.",
            Line(
                rate("podtally_interface_drops_total", 'cluster=~"$cluster"', "where", "direction"),
                "{{direction}}, {{where}}",
            ),
            Look(PER_SECOND, 8),
        ),
        growth_table(
            "Resets",
            "Established connections in the selected time range that one side reset.",
            _ENDED_BY,
            Counted("Connections", _ENDINGS, f'{WORKLOADS},ending=~"reset_.*"'),
            Look(COUNT, 8, empty="no connection was reset"),
        ),
    ),
)

_AGAIN = Row(
    "What is sent again?",
    (
        lines(
            "Retransmit ratio",
            "Packets that workloads sent again, of the TCP packets that they sent.",
            Line(
                share(
                    rate(_RETRANSMITS, WORKLOADS, "namespace", "workload"),
                    rate(_PACKETS, _SENT_TCP, "namespace", "workload"),
                ),
                "{{namespace}}/{{workload}}",
            ),
            Look(SHARE, 12, empty="nothing was sent again, or the kernel does not report it"),
        ),
        growth_table(
            "Retransmits",
            "Packets in the selected time range that workloads sent again.",
            _SENT_AGAIN_BY,
            Counted("Packets", _RETRANSMITS, WORKLOADS),
            Look(COUNT, 12, empty="nothing was sent again, or the kernel does not report it"),
        ),
        lines(
            "Retransmits that are not counted",
            "Of all namespaces of the selected cluster: what the panels above may lack, by cause.",
            Line(
                rate("podtally_retransmits_lost_total", 'cluster=~"$cluster"', "loss"), "{{loss}}"
            ),
            Look(PER_SECOND, 24, 6, empty="the kernel does not report retransmits"),
        ),
    ),
)

_BEHIND = flows_row(FAILED)

HEALTH = Dashboard(
    "health",
    "Health",
    "Do connections work? Failures by outcome, handshake times, retransmits, resets.",
    (CLUSTER, NAMESPACE, WORKLOAD),
    (_NUMBERS, _FAILURES, _TIMES, _AGAIN, _ENDS, _BEHIND),
)

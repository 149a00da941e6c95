# SPDX-License-Identifier: Apache-2.0
"""Pages of /metrics with conversations and books, and what ``podtally top`` makes of them."""

import io

from podtally.commands.traffic.conversation_rows import ConversationFilter, ConversationRate, rows
from podtally.commands.traffic.conversations import TrafficReader, TrafficSnapshot
from podtally.commands.traffic.top_table import TopPage, once
from podtally.export.exposition import label_text
from podtally.ledger.series.label_sets import FlowLabels

BUILD = 'podtally_build_info{version="1"} 1.0\n'
EVERYTHING = ConversationFilter()
STRAY = FlowLabels(
    "shop", "stray", "Deployment", "egress", "external", "", "", "internet", "tcp", "4444", "denied"
)
WEB = FlowLabels(
    "shop", "web", "Deployment", "egress", "pod", "data", "db", "node", "tcp", "3306", "allowed"
)
USED = WEB._replace(
    direction="ingress", peer_kind="external", peer_namespace="", peer_workload="office", port="80",
    scope="private", verdict="undeclared",
)  # fmt: skip


def series(name: str, labels: FlowLabels, value: int) -> str:
    return f"podtally_{name}_total{{{label_text(labels._fields, labels)}}} {value}\n"


def talked(began: FlowLabels, connections: int, sent: int, received: int) -> str:
    """As the agent writes it: ``direction`` is the connection's, or the bytes'."""
    return (
        series("connections", began, connections)
        + series("flow_bytes", began._replace(direction="egress"), sent)
        + series("flow_bytes", began._replace(direction="ingress"), received)
        + series("flow_packets", began, 99)
    )


def books(gap: str = "0", interface: str = "veth1") -> str:
    page = f'interface="{interface}",direction="egress"'
    accounts = (("flows", 6160), ("other", 84), ("overflow", 2))
    booked = "".join(
        f'podtally_books_bytes_total{{{page},account="{account}"}} {count}\n'
        for account, count in accounts
    )
    return booked + (f"podtally_books_gap_bytes{{{page}}} {gap}\n" if gap else "")


METRICS = BUILD + talked(STRAY, 7, 460, 0) + talked(WEB, 23, 1000, 4000) + talked(USED, 3, 400, 300)

LONG = talked(
    STRAY._replace(namespace="a-namespace-of-some-length", workload="a-workload-of-some-length"), 7, 460, 0
)  # fmt: skip


def seen(metrics: str, at_seconds: float = 0.0) -> TrafficSnapshot:
    return TrafficReader().read(metrics, at_seconds)


def found(metrics: str, wanted: ConversationFilter = EVERYTHING) -> list[ConversationRate]:
    return rows(seen(BUILD + metrics), None, wanted)


def printed(metrics: str, wanted: ConversationFilter = EVERYTHING, limit: int | None = None) -> str:
    now, out = seen(metrics), io.StringIO()
    once(TopPage(now, rows(now, None, wanted), limit), out)
    return out.getvalue()

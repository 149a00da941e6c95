# SPDX-License-Identifier: Apache-2.0
"""The ledger's view as Prometheus text, in the contract's names.

Written by hand because there are thousands of series: a label set is turned into
text once, not once a scrape. The agent's own few metrics are prometheus_client's.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from podtally.ledger.accounts import BYTES, CONNECTIONS, PACKETS
from podtally.ledger.costs import DOLLARS, PARTS, REST
from podtally.ledger.label_sets import ACCOUNTS, DIRECTIONS, DROPS, CostLabels
from podtally.ledger.series import SeriesView
from podtally.ledger.view import View

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Family(NamedTuple):
    name: str  # without _total
    kind: str  # counter, gauge
    help: str

    @property
    def sample_name(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name


POD_BYTES = Family(
    "podtally_pod_bytes", "counter", "Bytes on the endpoint's interfaces, all accounts together."
)
POD_PACKETS = Family(
    "podtally_pod_packets", "counter", "Packets, as on the wire, on the endpoint's interfaces."
)
FLOW_BYTES = Family(
    "podtally_flow_bytes", "counter", "Bytes of flows; direction is the bytes', port the server's."
)
FLOW_PACKETS = Family("podtally_flow_packets", "counter", "Packets of flows, as on the wire.")
CONNECTIONS_BEGUN = Family(
    "podtally_connections",
    "counter",
    "Connections begun: egress by the endpoint, ingress by its peer.",
)
DENIED = Family("podtally_policy_denied", "counter", "Connections that policy denies at this end.")
UNJUDGED = Family(
    "podtally_verdict_unknown_connections",
    "counter",
    "Connections that could not be judged, by what would have to be known.",
)
MISSED = Family(
    "podtally_policy_undecided",
    "counter",
    "Connections of endpoints that policies isolate on which policy could not be decided.",
)
SPOOFED = Family(
    "podtally_spoofed_packets",
    "counter",
    "Packets that endpoints sent from addresses that are not theirs.",
)
EXPOSED = Family(
    "podtally_undeclared_exposure_connections",
    "counter",
    "Connections from outside to pods that no Ingress, LoadBalancer or NodePort declares.",
)
SCANNING = Family(
    "podtally_scan_connections",
    "counter",
    "Connections in scans: to, or from, more ports or addresses than are reported one by one.",
)
CANDIDATE_CONNECTIONS = Family(
    "podtally_candidate_connections",
    "counter",
    "Connections that candidate policies would judge otherwise.",
)
CANDIDATE_BYTES = Family(
    "podtally_candidate_bytes", "counter", "Bytes of what candidate policies would judge otherwise."
)
EGRESS_COST = Family(
    "podtally_egress_cost_dollars",
    "counter",
    "Estimated cost of what was sent, by the prices in the configuration.",
)
INGRESS_COST = Family(
    "podtally_ingress_cost_dollars",
    "counter",
    "Estimated cost of what was received, by the prices in the configuration.",
)
KUBECOST = Family(
    "kubecost_pod_network_egress_bytes",
    "counter",
    "Bytes that pods sent, in the labels of Kubecost's network costs.",
)
BOOKS_BYTES = Family(
    "podtally_books_bytes",
    "counter",
    "Bytes booked on an interface: in flows, in none (other), for want of a slot (overflow).",
)
BOOKS_DROPS = Family(
    "podtally_books_drops_bytes",
    "counter",
    "Bytes that only one side counted: dropped before or after our programs, headers left out.",
)
BOOKS_GAP = Family(
    "podtally_books_gap_bytes",
    "gauge",
    "What the interface counted less what is booked; 0 when the books close.",
)


class Exposition:
    """Renders views; the text of a label set is made once, and kept as long as the set."""

    def __init__(self) -> None:
        self._texts: dict[str, _Texts] = {}

    def render(self, view: View, openmetrics: bool) -> str:
        """All families of ``view``; without the ``# EOF`` that ends OpenMetrics."""
        lines: list[str] = []
        for shown in self._shown(view):
            lines.append(_described(shown.family, openmetrics))
            name = shown.family.sample_name
            lines += [
                f"{name}{{{t}}} {v}\n" for t, v in zip(shown.texts, shown.values, strict=True)
            ]
        return "".join(lines)

    def _shown(self, view: View) -> Iterator["_SeriesText"]:
        columns: tuple[tuple[Family, str, int], ...] = (
            (POD_BYTES, "pods", BYTES),
            (POD_PACKETS, "pods", PACKETS),
            (FLOW_BYTES, "flows", BYTES),
            (FLOW_PACKETS, "flows", PACKETS),
            (CONNECTIONS_BEGUN, "flows", CONNECTIONS),
            (DENIED, "denied", 0),
            (UNJUDGED, "unjudged", 0),
            (MISSED, "missed", 0),
            (SPOOFED, "spoofed", 0),
            (EXPOSED, "exposed", 0),
            (SCANNING, "scanning", 0),
            (CANDIDATE_CONNECTIONS, "candidate", CONNECTIONS),
            (CANDIDATE_BYTES, "candidate", BYTES),
        )
        for family, table, column in columns:
            series: SeriesView[Any] = getattr(view, table)
            texts = self._of(table, series.labels)
            yield _SeriesText(family, texts, series.values[:, column].tolist())
        yield from self._costs(view)
        books = self._of("books", view.books.labels)
        texts = [f'{text},account="{account}"' for account in ACCOUNTS for text in books]
        yield _SeriesText(BOOKS_BYTES, texts, view.books.values.T.ravel().tolist())
        drops = self._of("drops", view.drops.labels)
        texts = [f'{text},kind="{kind}"' for kind in DROPS for text in drops]
        yield _SeriesText(BOOKS_DROPS, texts, view.drops.values.T.ravel().tolist())
        gaps = [label_text(each._fields, each) for each, _ in view.gaps]
        yield _SeriesText(BOOKS_GAP, gaps, [gap for _, gap in view.gaps])

    def _costs(self, view: View) -> Iterator["_SeriesText"]:
        texts = self._of("costs", view.costs.labels)
        dollars = view.costs.values[:, DOLLARS] + view.costs.values[:, REST] / PARTS
        priced = list(zip(view.costs.labels, texts, dollars.tolist(), strict=True))
        for family, direction in zip((EGRESS_COST, INGRESS_COST), DIRECTIONS, strict=True):
            its = [(text, value) for labels, text, value in priced if labels.direction == direction]
            yield _SeriesText(family, [text for text, _ in its], [value for _, value in its])
        if view.kubecost.labels:
            texts = self._of("kubecost", view.kubecost.labels)
            yield _SeriesText(KUBECOST, texts, view.kubecost.values[:, BYTES].tolist())

    def _of(self, table: str, labels: Sequence[Any]) -> list[str]:
        known = self._texts.get(table)
        if known is None or known.labels is not labels:
            before = {} if known is None else known.by_labels
            texts = {each: before.get(each) or _text(each) for each in labels}
            known = self._texts[table] = _Texts(labels, list(texts.values()), texts)
        return known.texts


class _Texts(NamedTuple):
    labels: Sequence[Any]  # of the view that they were last made for
    texts: list[str]
    by_labels: dict[Any, str]


class _SeriesText(NamedTuple):
    """A family with the text of its label sets."""

    family: Family
    texts: Sequence[str]
    values: Sequence[float]  # integers but for dollars


def _text(labels: Any) -> str:
    if isinstance(labels, CostLabels):  # the direction is in the metric's name
        return label_text(labels._fields[:-1], labels[:-1])
    return label_text(labels._fields, labels)


def label_text(names: Iterable[str], values: Iterable[str]) -> str:
    """``name="value",...`` with the escapes of the exposition format."""
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)
    )


def _described(family: Family, openmetrics: bool) -> str:
    name = family.name if openmetrics else family.sample_name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"

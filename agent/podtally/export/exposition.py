"""The ledger's view as Prometheus text, in the contract's names.

Written by hand because there are thousands of series: a label set is turned into
text once, not at every scrape. The agent's own few metrics are prometheus_client's.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from podtally.ledger.accounts import BYTES, CONNECTIONS, PACKETS
from podtally.ledger.labels import ACCOUNTS
from podtally.ledger.ledger import View
from podtally.ledger.series import SeriesView

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Sample = tuple[str, int]  # label text and value


class Family(NamedTuple):
    name: str  # without _total
    kind: str  # counter, gauge
    help: str


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
EXPOSED = Family(
    "podtally_undeclared_exposure_connections",
    "counter",
    "Connections from outside to pods that no Ingress, LoadBalancer or NodePort declares.",
)
CANDIDATE_CONNECTIONS = Family(
    "podtally_candidate_connections",
    "counter",
    "Connections that candidate policies would judge otherwise.",
)
CANDIDATE_BYTES = Family(
    "podtally_candidate_bytes", "counter", "Bytes of what candidate policies would judge otherwise."
)
BOOKS_BYTES = Family(
    "podtally_books_bytes",
    "counter",
    "Bytes booked on an interface: in flows, in none (other), for want of a slot (overflow).",
)
BOOKS_GAP = Family(
    "podtally_books_gap_bytes",
    "gauge",
    "What the interface counted less what is booked; 0 when the books close.",
)


class Exposition:
    """Renders views; keeps the text of label sets between scrapes."""

    def __init__(self) -> None:
        self._texts: dict[Any, str] = {}

    def render(self, view: View, openmetrics: bool) -> str:
        """All families of ``view``; without the ``# EOF`` that ends OpenMetrics."""
        texts: dict[Any, str] = {}
        text = "".join(self._families(view, openmetrics, texts))
        self._texts = texts  # label sets that are gone are forgotten
        return text

    def _families(self, view: View, openmetrics: bool, texts: dict[Any, str]) -> Iterator[str]:
        pods, flows, books = view.pods, view.flows, view.books
        for family, column in ((POD_BYTES, BYTES), (POD_PACKETS, PACKETS)):
            samples = self._samples(pods.labels, pods.values[:, column].tolist(), texts)
            yield _family(family, samples, openmetrics)
        for family, column in (
            (FLOW_BYTES, BYTES),
            (FLOW_PACKETS, PACKETS),
            (CONNECTIONS_BEGUN, CONNECTIONS),
        ):
            samples = self._samples(flows.labels, flows.values[:, column].tolist(), texts)
            yield _family(family, samples, openmetrics)
        judged: tuple[tuple[Family, SeriesView[Any], int], ...] = (
            (DENIED, view.denied, 0),
            (UNJUDGED, view.unjudged, 0),
            (EXPOSED, view.exposed, 0),
            (CANDIDATE_CONNECTIONS, view.candidate, CONNECTIONS),
            (CANDIDATE_BYTES, view.candidate, BYTES),
        )
        for family, series, column in judged:
            samples = self._samples(series.labels, series.values[:, column].tolist(), texts)
            yield _family(family, samples, openmetrics)
        booked = [
            (f'{text},account="{account}"', value)
            for column, account in enumerate(ACCOUNTS)
            for text, value in self._samples(books.labels, books.values[:, column].tolist(), texts)
        ]
        yield _family(BOOKS_BYTES, booked, openmetrics)
        gaps = self._samples([each for each, _ in view.gaps], [gap for _, gap in view.gaps], texts)
        yield _family(BOOKS_GAP, gaps, openmetrics)

    def _samples(
        self, labels: Sequence[Any], values: list[int], texts: dict[Any, str]
    ) -> list[Sample]:
        known = self._texts
        for each in labels:
            if each not in texts:
                texts[each] = known.get(each) or label_text(each._fields, each)
        return list(zip((texts[each] for each in labels), values, strict=True))


def label_text(names: Iterable[str], values: Iterable[str]) -> str:
    """``name="value",...`` with the escapes of the exposition format."""
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)
    )


def _family(family: Family, samples: Iterable[Sample], openmetrics: bool) -> str:
    name = family.name
    sample_name = f"{name}_total" if family.kind == "counter" else name
    described = name if openmetrics else sample_name
    lines = [f"# HELP {described} {family.help}\n# TYPE {described} {family.kind}\n"]
    lines += [f"{sample_name}{{{labels}}} {value}\n" for labels, value in samples]
    return "".join(lines)

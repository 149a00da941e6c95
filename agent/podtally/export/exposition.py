# SPDX-License-Identifier: Apache-2.0
"""Renders the ledger's view as Prometheus text, by the declarations of ``ledger.families``.

Not by prometheus_client, because there are thousands of series: the text of a label set is
made once, not once per scrape. The agent's own few metrics are prometheus_client's.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from podtally.ledger.metrics.costs import DOLLARS, PARTS, REST
from podtally.ledger.metrics.families import FAMILIES
from podtally.ledger.metrics.family import Declaration, Family, Metric
from podtally.ledger.metrics.view import View
from podtally.ledger.series.series import SeriesView

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Exposition:
    """Renders views; the text of a label set is kept as long as the set."""

    def __init__(self) -> None:
        self._texts: dict[str, _Texts] = {}

    def render(self, view: View, openmetrics: bool) -> str:
        """Return all families of ``view``, without the ``# EOF`` that ends OpenMetrics."""
        lines: list[str] = []
        for shown in self._shown(view):
            lines.append(_described(shown.metric, openmetrics))
            if shown.metric.bounds:
                lines += _histogram(shown)
                continue
            name = shown.metric.sample_name
            lines += [
                f"{name}{{{t}}} {v}\n" for t, v in zip(shown.texts, shown.values, strict=True)
            ]
        return "".join(lines)

    def _shown(self, view: View) -> Iterator["_MetricText"]:
        for family in FAMILIES:
            series = view[family]
            texts = self._of(family, series.labels)
            for metric in family.metrics:
                if series.labels or not metric.if_any:
                    yield _MetricText(metric, *_samples(family, metric, series, texts))

    def _of(self, family: Family[Any], labels: Sequence[Any]) -> list[str]:
        """Return the text of label sets, without labels that are in the metrics' names."""
        known = self._texts.get(family.name)
        if known is None or known.labels is not labels:
            before = {} if known is None else known.by_labels
            texts = {each: before.get(each) or _text(family, each) for each in labels}
            known = self._texts[family.name] = _Texts(labels, list(texts.values()), texts)
        return known.texts


class _Texts(NamedTuple):
    labels: Sequence[Any]  # of the view that they were last made for
    texts: list[str]
    by_labels: dict[Any, str]


class _MetricText(NamedTuple):
    """A metric with the text of its label sets."""

    metric: Metric
    texts: Sequence[str]
    values: Sequence[Any]  # integers, except dollars; of a histogram a list of sums each


def _samples(
    family: Family[Any], metric: Metric, series: SeriesView[Any], texts: list[str]
) -> tuple[Sequence[str], Sequence[Any]]:
    values = series.values
    if metric.bounds:
        return texts, values.tolist()
    if metric.label_of_columns:
        by_column = [f'{t},{metric.label_of_columns}="{c}"' for c in family.sums for t in texts]
        return by_column, values.T.ravel().tolist()
    if metric.only is not None:
        at = family.label_names.index(metric.only[0])
        rows = [row for row, labels in enumerate(series.labels) if labels[at] == metric.only[1]]
        texts, values = [texts[row] for row in rows], values[rows]
    if metric.is_dollars:
        return texts, (values[:, DOLLARS] + values[:, REST] / PARTS).tolist()
    return texts, values[:, metric.column].tolist()


def _histogram(shown: _MetricText) -> Iterator[str]:
    """Yield the samples of a histogram: cumulative buckets, count and sum of each label set."""
    name, bounds = shown.metric.name, [*map(str, shown.metric.bounds), "+Inf"]
    for text, values in zip(shown.texts, shown.values, strict=True):
        *counts, total_ns = values
        for bound, count in zip(bounds, accumulate(counts), strict=True):
            yield f'{name}_bucket{{{text},le="{bound}"}} {count}\n'
        yield f"{name}_count{{{text}}} {sum(counts)}\n{name}_sum{{{text}}} {total_ns / 1e9}\n"


def _text(family: Family[Any], labels: Any) -> str:
    hidden = {metric.only[0] for metric in family.metrics if metric.only}
    shown = {
        name: value
        for name, value in zip(family.label_names, labels, strict=True)
        if name not in hidden
    }
    return label_text(shown, shown.values())


def label_text(names: Iterable[str], values: Iterable[str]) -> str:
    """Return ``name="value",...`` with the escapes of the exposition format."""
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)
    )


def _described(metric: Declaration, openmetrics: bool) -> str:
    name = metric.name if openmetrics else metric.sample_name
    return f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"

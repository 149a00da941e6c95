# SPDX-License-Identifier: Apache-2.0
"""Finds the labels that the result of a PromQL expression may have, and unknown names in it."""

from collections.abc import Callable, Mapping
from typing import Any

import promql_parser as promql

from tests.unit.metrics_page import PATH, series

PAGE = PATH
# What the scrape adds; docs/dashboards.md says who adds cluster and node.
OF_TARGETS = frozenset({"job", "instance", "cluster", "node"})
# Prometheus' own.
OF_PROMETHEUS = {
    "up": frozenset[str](),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}

Labels = frozenset[str]
Catalogue = Mapping[str, Labels]
Faults = list[str]


def catalogue(page: str) -> Catalogue:
    """Every series that a query may name: those of docs/metrics.md, and Prometheus' own."""
    return {**series(page), **OF_PROMETHEUS}


class Walk:
    """Walks one expression; ``faults`` says what names a metric or a label that there is not."""

    def __init__(self, metrics: Catalogue) -> None:
        self.metrics = metrics
        self.faults: Faults = []
        self._walks: tuple[tuple[Any, Callable[[Any], Labels]], ...] = (
            (promql.VectorSelector, self._selector),
            (promql.MatrixSelector, lambda node: self._selector(node.vector_selector)),
            (promql.AggregateExpr, self._aggregate),
            (promql.BinaryExpr, self._binary),
            (promql.Call, self._call),
            ((promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr), self._inner),
        )

    def labels(self, node: Any) -> Labels:
        """Of a node of the tree; numbers and texts have none."""
        for kind, walk in self._walks:
            if isinstance(node, kind):
                return walk(node)
        return frozenset()

    def _inner(self, node: Any) -> Labels:
        return self.labels(node.expr)

    def _selector(self, node: Any) -> Labels:
        if node.name not in self.metrics:
            self.faults.append(f"no metric {node.name}")
            return frozenset()
        labels = self.metrics[node.name] | OF_TARGETS
        self._expect(node.name, (each.name for each in node.matchers.matchers), labels)
        return labels

    def _aggregate(self, node: Any) -> Labels:
        inner = self.labels(node.expr)
        if str(node.op) in ("topk", "bottomk"):
            return inner
        if node.modifier is None:
            return frozenset()
        named = frozenset(node.modifier.labels)
        self._expect(f"{node.op}", named, inner)
        return named if node.modifier.type == promql.AggModifierType.By else inner - named

    def _binary(self, node: Any) -> Labels:
        left, right = self.labels(node.lhs), self.labels(node.rhs)
        matching = node.modifier and node.modifier.matching
        if matching:
            self._expect(str(node.op), matching.labels, left & right)
        if str(node.op) == "or":
            return left | right
        return right if isinstance(node.lhs, promql.NumberLiteral) else left

    def _call(self, node: Any) -> Labels:
        inner = frozenset[str]().union(*(self.labels(each) for each in node.args))
        words = [each.val for each in node.args if isinstance(each, promql.StringLiteral)]
        if node.func.name == "label_replace":
            self._expect("label_replace", [words[2]], inner)
            return inner | {words[0]}
        if node.func.name == "label_join":
            self._expect("label_join", words[2:], inner)
            return inner | {words[0]}
        return inner - {"le"} if node.func.name == "histogram_quantile" else inner

    def _expect(self, who: str, names: Any, labels: Labels) -> None:
        self.faults += [f"{who} has no label {name}" for name in names if name not in labels]


def check(expr: str, metrics: Catalogue) -> tuple[Labels, Faults]:
    """The labels of the result, and the faults; a text that does not parse is a ValueError."""
    walk = Walk(metrics)
    return walk.labels(promql.parse(expr)), walk.faults

# SPDX-License-Identifier: Apache-2.0
"""The label `node` for stores of one node: it is the same for all of their rows."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from podtally.history.flow_query import NODE, FlowQuery, FlowRow


def is_selected(query: FlowQuery, node: str) -> bool:
    """Return whether a query's filters include a node."""
    patterns = query.filters.get(NODE)
    if patterns is None:
        return True
    quoted = (each.replace("[", "[[]").replace("?", "[?]") for each in patterns)
    return any(fnmatchcase(node, each) for each in quoted)


def without_node(query: FlowQuery) -> FlowQuery:
    """Return the query that the store's own columns answer."""
    filters = {name: each for name, each in query.filters.items() if name != NODE}
    return query._replace(filters=filters, by=tuple(each for each in query.by if each != NODE))


def with_node(rows: Sequence[FlowRow], query: FlowQuery, node: str) -> list[FlowRow]:
    """Return rows with the labels that a query groups by, in its order."""
    if NODE not in query.by:
        return list(rows)
    return [
        row._replace(labels={name: {**row.labels, NODE: node}[name] for name in query.by})
        for row in rows
    ]

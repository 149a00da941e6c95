# SPDX-License-Identifier: Apache-2.0
"""The filters of a query as SQL, for both stores.

A user's texts are quoted as the dialect wants; nothing else from a user gets into a statement.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Protocol

from podtally.errors import PodtallyError
from podtally.history.flow_query import COLUMNS, FlowQuery
from podtally.history.sqlite_schema import INITIATORS
from podtally.ledger.recording.history_rows import OTHER_PORT
from podtally.ledger.series.label_sets import OTHER, PROTOCOLS, UNKNOWN
from podtally.yamltree.suggestion import did_you_mean

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORT_WORDS = {UNKNOWN: -1, OTHER: OTHER_PORT}
_SCOPES = ("node", "zone", "cross_zone", "cluster", "private", "internet")
_KINDS = ("pod", "service", "host", "external", "unknown")
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_WITHIN_NODE = "scope = 'node' AND peer_kind = 'pod'"
_WITHIN_CLUSTER = "peer_kind = 'pod'"


class Dialect(Protocol):
    """What differs between the stores."""

    is_cluster: bool  # it has the rows of every node

    def text(self, value: str) -> str:
        """Quote a text."""
        ...

    def like(self, column: str, pattern: str) -> str:
        """Return the condition that a column matches a pattern with ``*``."""
        ...

    def within(self, column: str, network: Network) -> str:
        """Return the condition that a column has an address of a network."""
        ...


def where(query: FlowQuery, dialect: Dialect) -> str:
    """Return the condition of a query, but for its times; PodtallyError for an invalid filter."""
    parts = []
    if query.accounts:
        parts.append(_any("account", query.accounts, dialect))
    for column, patterns in query.filters.items():
        if column not in COLUMNS:
            hint = did_you_mean(column, COLUMNS) or f"use {', '.join(COLUMNS)}"
            raise PodtallyError(f"unknown label {column!r}", hint)
        parts.append(_any(column, patterns, dialect))
    if query.either:
        ends = (_endpoint(query.either, dialect), _peer(query.either, dialect))
        parts.append(f"({' OR '.join(each for each in ends if each)})")
    if query.source or query.destination:
        parts.append(_between(query.source, query.destination, dialect))
    return " AND ".join(parts) or "1 = 1"


def _between(source: str, destination: str, dialect: Dialect) -> str:
    """Return the condition that connections go from one end to another.

    Where both ends have rows, those of the opening end are taken.
    """
    opened = [_initiator("endpoint", UNKNOWN)]
    accepted = [_initiator("peer"), f"NOT ({_both_recorded(dialect)})"]
    for word, ends in ((source, (_endpoint, _peer)), (destination, (_peer, _endpoint))):
        if word:
            opened.append(ends[0](word, dialect) or "1 = 0")
            accepted.append(ends[1](word, dialect) or "1 = 0")
    return f"({' AND '.join(opened)} OR {' AND '.join(accepted)})"


def _both_recorded(dialect: Dialect) -> str:
    return _WITHIN_CLUSTER if dialect.is_cluster else _WITHIN_NODE


def _initiator(*words: str) -> str:
    return f"initiator IN ({', '.join(str(INITIATORS.index(word)) for word in words)})"


def _endpoint(word: str, dialect: Dialect) -> str:
    """Return the condition that the endpoint is what a word names; "" if it cannot be."""
    if _network(word) is not None or word in _SCOPES or word in _KINDS[1:]:
        return ""
    namespace, slash, name = word.partition("/")
    if not slash:
        namespace, name = "*", word
    named = " OR ".join(_matches(each, name, dialect) for each in ("workload", "pod"))
    return f"({_matches('namespace', namespace, dialect)} AND ({named}))"


def _peer(word: str, dialect: Dialect) -> str:
    """Return the condition that the peer is what a word names."""
    network = _network(word)
    if network is not None:
        return dialect.within("address", network)
    if word in _SCOPES:
        return f"scope = {dialect.text(word)}"
    if word in _KINDS:
        return f"peer_kind = {dialect.text(word)}"
    namespace, slash, name = word.partition("/")
    if slash:
        space = _matches("peer_namespace", namespace, dialect)
        return f"({space} AND {_matches('peer_workload', name, dialect)})"
    named = [_matches(each, word, dialect) for each in ("peer_workload", "peer_domain")]
    return f"({' OR '.join(named)})"


def _any(column: str, patterns: Sequence[str], dialect: Dialect) -> str:
    return f"({' OR '.join(_matches(column, each, dialect) for each in patterns)})"


def _matches(column: str, pattern: str, dialect: Dialect) -> str:
    numbers: Mapping[str, Mapping[str, int]] = {
        "port": PORT_WORDS,
        "protocol": _NUMBERS,
        "initiator": {name: number for number, name in enumerate(INITIATORS)},
    }
    if column in numbers:
        return f"{column} = {_number(column, pattern, numbers[column])}"
    if column == "address" and (network := _network(pattern)) is not None:
        return dialect.within(column, network)
    if "*" in pattern:
        return dialect.like(column, pattern)
    return f"{column} = {dialect.text(pattern)}"


def _number(column: str, text: str, words: Mapping[str, int]) -> int:
    if text.lower() in words:
        return words[text.lower()]
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise PodtallyError(f"invalid {column} {text!r}", f"use a number, or {', '.join(words)}")


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""Books what endpoints asked in DNS under their workloads."""

from collections.abc import Collection, Hashable, Iterable
from ipaddress import IPv6Address
from typing import NamedTuple, TypeVar

import numpy as np

from podtally.dns.message import rcode_name, type_name
from podtally.dns.tracker import Observed
from podtally.identity.model import UNKNOWN, Endpoint
from podtally.kernel.captured import HOST
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.metrics.dns_families import (
    DNS_BYPASS,
    DNS_LONG_NAMES,
    DNS_QUERIES,
    DNS_SECONDS,
    DNS_TROUBLE,
    DnsLabels,
    DnsLongNameLabels,
    DnsResolverLabels,
    DnsTroubleLabels,
    DnsWorkloadLabels,
)
from podtally.ledger.metrics.tables import Tables
from podtally.ledger.series.label_sets import OTHER
from podtally.ledger.series.series import SeriesTable

UNANSWERED = "unanswered"
_TROUBLES = ("truncated", "unsolicited", "unreadable", "lost")
MAX_RESOLVERS = 8  # of one workload
MAX_LONG_DOMAINS = 10  # of one workload
MAX_SERIES = 8192  # of one family; then the rest is of an `other` workload
_HOST = Endpoint("", "host", "host", "", "host")

_Labels = TypeVar("_Labels", bound=Hashable)


class _Workload(NamedTuple):
    namespace: str
    workload: str


class DnsBooking:
    """Until an endpoint has a name, what it asked waits."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._waiting: list[tuple[int, Observed]] = []  # since when
        self._resolvers: dict[_Workload, set[str]] = {}
        self._domains: dict[_Workload, set[str]] = {}

    def book(self, observed: Observed, context: EpochContext, patience_ns: int) -> None:
        """Add what was observed; endpoints without a final name wait up to ``patience_ns``."""
        given, self._waiting = [*self._waiting, (context.now_ns, observed)], []
        for since_ns, each in given:
            late = context.now_ns - since_ns > patience_ns
            waiting = set() if late else _unnamed(each, context)
            if waiting:
                self._waiting.append((since_ns, _only(each, waiting)))
            self._book(each, context, waiting)

    def _book(self, seen: Observed, context: EpochContext, waiting: Collection[int]) -> None:
        now_ns = context.now_ns
        trusted = context.domains.trusted_resolvers
        for exchange, count in seen.exchanges.items():
            if exchange.endpoint in waiting:
                continue
            own = _workload(exchange.endpoint, context)
            resolver = self._resolver(own, exchange.resolver, context)
            rcode = UNANSWERED if exchange.rcode < 0 else rcode_name(exchange.rcode)
            labels = DnsLabels(*own, resolver, type_name(exchange.type), rcode)
            _add(self._tables[DNS_QUERIES], labels, [count], now_ns)
            if exchange.resolver not in trusted:
                bypass = DnsResolverLabels(*own, resolver)
                _add(self._tables[DNS_BYPASS], bypass, [count], now_ns)
        for endpoint, (total_ns, counts) in seen.seconds.items():
            if endpoint not in waiting:
                label = DnsWorkloadLabels(*_workload(endpoint, context))
                _add(self._tables[DNS_SECONDS], label, [*counts, total_ns], now_ns)
        troubles = (seen.truncated, seen.unsolicited, seen.unreadable, seen.dropped)
        for kind, messages in zip(_TROUBLES, troubles, strict=True):
            for endpoint, count in messages.items():
                if endpoint not in waiting:
                    trouble = DnsTroubleLabels(*_workload(endpoint, context), kind)
                    _add(self._tables[DNS_TROUBLE], trouble, [count], now_ns)
        for (endpoint, domain), count in seen.long_names.items():
            if endpoint not in waiting:
                own = _workload(endpoint, context)
                shown = _fitting(self._domains, own, domain, MAX_LONG_DOMAINS)
                long_labels = DnsLongNameLabels(*own, shown)
                _add(self._tables[DNS_LONG_NAMES], long_labels, [count], now_ns)

    def _resolver(self, own: _Workload, address: bytes, context: EpochContext) -> str:
        words = np.frombuffer(address, ">u8").astype(np.uint64)
        at = np.array([context.now_ns])
        owner = context.names.owners[int(context.names.look_up(words[:1], words[1:], at)[0])]
        name = f"{owner.namespace}/{owner.workload}" if owner.namespace else _text(address)
        return _fitting(self._resolvers, own, name, MAX_RESOLVERS)

    def expire(self, before_ns: int) -> None:
        """Forget series that have been idle since ``before_ns``."""
        none = np.zeros(0, np.int64)
        for family in (DNS_QUERIES, DNS_SECONDS, DNS_TROUBLE, DNS_BYPASS, DNS_LONG_NAMES):
            self._tables.by_name[family.name].expire(before_ns, none)
        if max(len(self._resolvers), len(self._domains)) > MAX_SERIES:
            self._resolvers, self._domains = {}, {}


def _add(table: SeriesTable[_Labels], labels: _Labels, amounts: list[int], now_ns: int) -> None:
    if table.find(labels) is None and len(table) >= MAX_SERIES:
        labels = labels._replace(namespace=OTHER, workload=OTHER)  # type: ignore[attr-defined]
    index = np.array([table.index_of(labels, now_ns)])
    table.add(index, np.array([amounts], np.int64), now_ns)


def _fitting(known: dict[_Workload, set[str]], own: _Workload, value: str, most: int) -> str:
    """Return a value, or `other` if the workload has ``most`` others."""
    shown = known.setdefault(own, set())
    if value not in shown and len(shown) >= most:
        return OTHER
    shown.add(value)
    return value


def _workload(endpoint: int, context: EpochContext) -> _Workload:
    found = _endpoint(endpoint, context)
    if not found.final:
        return _Workload(UNKNOWN, UNKNOWN)
    return _Workload(found.namespace, found.workload)


def _endpoint(endpoint: int, context: EpochContext) -> Endpoint:
    return _HOST if endpoint == HOST else context.names.endpoint(endpoint)


def _endpoints(seen: Observed) -> Iterable[int]:
    yield from {each.endpoint for each in seen.exchanges}
    for counts in (
        *(seen.seconds, seen.truncated, seen.unsolicited, seen.unreadable, seen.dropped),
    ):
        yield from counts
    yield from {endpoint for endpoint, _ in seen.long_names}


def _unnamed(seen: Observed, context: EpochContext) -> set[int]:
    return {each for each in _endpoints(seen) if not _endpoint(each, context).final}


def _only(seen: Observed, endpoints: Collection[int]) -> Observed:
    """Return what is of these endpoints."""
    return seen._replace(
        answers=[],
        exchanges={k: n for k, n in seen.exchanges.items() if k.endpoint in endpoints},
        seconds={k: n for k, n in seen.seconds.items() if k in endpoints},
        truncated={k: n for k, n in seen.truncated.items() if k in endpoints},
        unsolicited={k: n for k, n in seen.unsolicited.items() if k in endpoints},
        unreadable={k: n for k, n in seen.unreadable.items() if k in endpoints},
        dropped={k: n for k, n in seen.dropped.items() if k in endpoints},
        long_names={k: n for k, n in seen.long_names.items() if k[0] in endpoints},
    )


def _text(address: bytes) -> str:
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)

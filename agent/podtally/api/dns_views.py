# SPDX-License-Identifier: Apache-2.0
"""Shapes what the agent saw of DNS for JSON: the latest questions, and the answers for a name.

Called from HTTP threads: it reads values that are replaced as a whole.
"""

import datetime
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import numpy as np

from podtally.api import schema
from podtally.api.dns_lookup import SeenDns
from podtally.api.dns_schema import (
    MAX_ROWS,
    UNANSWERED,
    DnsQueries,
    DnsQuery,
    NameAnswer,
    NameAnswers,
)
from podtally.dns.domain_table import CHAIN_SEPARATOR, HINT, OTHER_RESOLVER
from podtally.dns.known_names import NAMES_OFF
from podtally.dns.message import NO_ERROR, RCODES, TYPES
from podtally.dns.tracker import RecentQuery
from podtally.errors import PodtallyError
from podtally.identity.local.directory import Directory
from podtally.kernel.captured import HOST
from podtally.policy.domain_patterns import normalise

_ADDRESS_BYTES = 16
_MAX_NAME = 1024  # characters; longer ones are in no message


class _Asker(NamedTuple):
    namespace: str
    pod: str
    workload: str
    interface: str


_HOST = _Asker("", "host", "host", "")
_UNKNOWN = _Asker("unknown", "unknown", "unknown", "")


class DnsViews:
    """What was seen of DNS up to the last epoch."""

    def __init__(self, seen: SeenDns, directory: Directory) -> None:
        """PodtallyError if DNS is not captured."""
        if not seen.inputs.is_on or seen.inputs.missing & NAMES_OFF:
            raise PodtallyError(
                "DNS is not captured",
                "set names_from to dns; `podtally doctor` says what the kernel lacks",
            )
        self._seen = seen
        self._names = directory.names
        self._interfaces = {
            each.ifindex: each.interface for each in list(directory.interface_endpoints())
        }
        self._askers: dict[int, _Asker] = {HOST: _HOST}
        self._resolvers: dict[bytes, tuple[str, str]] = {}
        self._now_ns = time.monotonic_ns()
        self._wall = time.time() - self._now_ns / 1e9

    def queries(self, words: Mapping[str, Sequence[str]]) -> DnsQueries:
        """Return the latest questions that the parameters choose; PodtallyError.

        ``namespace``, ``failed`` (1: only those without the answer NOERROR), ``limit``.
        """
        limit, failed = _limit(words), _last(words, "failed") in ("1", "true")
        namespace, recent = _last(words, "namespace"), self._seen.recent
        chosen = [
            each
            for each in reversed(recent)
            if not (failed and each.rcode == NO_ERROR)
            and (not namespace or self._asker(each.endpoint).namespace == namespace)
        ]
        chosen.sort(key=lambda each: -each.at_ns)
        rows = [self._query(each) for each in chosen[:limit]]
        return DnsQueries(rows, len(recent), len(chosen) - len(rows))

    def answers(self, words: Mapping[str, Sequence[str]]) -> NameAnswers:
        """Return which endpoints got which addresses for ``name``; PodtallyError.

        With ``at``, the latest answer before it for each endpoint, address and resolver.
        """
        limit, at = _limit(words), _last(words, "at")
        name = normalise(_last(words, "name").strip())
        if not name or len(name) > _MAX_NAME:
            example = f"for example {schema.NAMES}?name=api.example.com"
            raise PodtallyError("name is required", example)
        try:
            wall = schema.parse_time(at).timestamp() if at else time.time()
        except ValueError as error:
            raise PodtallyError(
                str(error), f"for example {schema.NAMES}?name=a.example&at=..."
            ) from None
        rows = self._records(name, int((wall - self._wall) * 1e9), latest=bool(at))
        found = [self._answer(row, wall) for row in rows[:limit]]
        return NameAnswers(name, at, found, len(rows) - len(found))

    def _records(self, name: str, at_ns: int, *, latest: bool) -> list[dict[str, Any]]:
        table = self._seen.inputs.table
        number = table.texts.number(name)
        if number < 0:
            return []
        records = table.records[table.records["name"] == number]
        records = records[records["at_ns"] <= at_ns]
        records = records[np.argsort(-records["at_ns"], kind="stable")]
        if latest:
            numbers = (records["endpoint"], *records["address"].T, records["resolver"])
            keys = np.stack([*(each.astype(np.uint64) for each in numbers)], axis=1)
            records = records[np.sort(np.unique(keys, axis=0, return_index=True)[1])]
        fields = list(records.dtype.names or ())
        return [dict(zip(fields, row, strict=True)) for row in records.tolist()]

    # -- rows ------------------------------------------------------------------------------

    def _query(self, query: RecentQuery) -> DnsQuery:
        address, owner = self._resolver(query.resolver, query.at_ns)
        rcode = RCODES.get(query.rcode, f"RCODE{query.rcode}")
        return DnsQuery(
            **self._asker(query.endpoint)._asdict(),
            resolver=address,
            resolver_name=owner,
            trusted=query.resolver in self._seen.inputs.trusted_resolvers,
            at=self._time(query.at_ns),
            name=query.name,
            type=TYPES.get(query.type, f"TYPE{query.type}"),
            rcode=UNANSWERED if query.rcode < 0 else rcode,
            seconds=None if query.duration_ns < 0 else query.duration_ns / 1e9,
        )

    def _answer(self, row: Mapping[str, Any], wall: float) -> NameAnswer:
        inputs, number = self._seen.inputs, row["resolver"]
        source = inputs.table.resolvers[number][:_ADDRESS_BYTES]
        known = number != OTHER_RESOLVER and len(source) == _ADDRESS_BYTES
        address, owner = self._resolver(source, row["at_ns"]) if known else ("", "")
        high, low = (int(each) for each in row["address"])
        chain = inputs.table.texts[row["chain"]]
        expires = row["at_ns"] / 1e9 + row["ttl"] + self._wall
        return NameAnswer(
            **self._asker(row["endpoint"])._asdict(),
            resolver=address,
            resolver_name=owner,
            trusted=bool(number < len(inputs.trusted) and inputs.trusted[number]),
            at=self._time(row["at_ns"]),
            address=_text((high << 64 | low).to_bytes(_ADDRESS_BYTES)),
            ttl=row["ttl"],
            expires=_rfc3339(expires),
            expired=expires < wall,
            chain=chain.split(CHAIN_SEPARATOR) if chain else [],
            hint=bool(row["flags"] & HINT),
        )

    def _asker(self, endpoint: int) -> _Asker:
        if (known := self._askers.get(endpoint)) is not None:
            return known
        made = _UNKNOWN
        if endpoint in self._interfaces:
            found = self._names.endpoint(endpoint)
            made = _Asker(found.namespace, found.name, found.workload, self._interfaces[endpoint])
        self._askers[endpoint] = made
        return made

    def _resolver(self, address: bytes, at_ns: int) -> tuple[str, str]:
        """Return its address, and the Service or pod that had it when it was first asked here."""
        if (known := self._resolvers.get(address)) is not None:
            return known
        words = np.frombuffer(address, ">u8").astype(np.uint64)
        found = self._names.look_up(words[:1], words[1:], np.array([at_ns]))
        owner = self._names.owners[int(found[0])]
        name = f"{owner.namespace}/{owner.workload}" if owner.namespace else ""
        made = self._resolvers[address] = (_text(address), name)
        return made

    def _time(self, at_ns: int) -> str:
        return _rfc3339(at_ns / 1e9 + self._wall)


def _rfc3339(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(address: bytes) -> str:
    number = IPv6Address(address)
    return str(number.ipv4_mapped or number)


def _last(words: Mapping[str, Sequence[str]], name: str) -> str:
    return words.get(name, [""])[-1]


def _limit(words: Mapping[str, Sequence[str]]) -> int:
    text = _last(words, "limit") or str(MAX_ROWS)
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:9]) <= MAX_ROWS:
        raise PodtallyError(f"invalid limit {text[:20]!r}", f"use 1 to {MAX_ROWS}")
    return int(text)

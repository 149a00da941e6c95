# SPDX-License-Identifier: Apache-2.0
"""What ``/api/v1`` answers, as JSON: the shapes of the answers, and how a question is read.

What is true of endpoints, addresses and policies comes from ``Answers``, what was counted from
what is ``Published``; commands decode with the same shapes. All times are in RFC 3339, in UTC.
"""

import datetime
import ipaddress
import re
from http import HTTPStatus
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec

from podtally.errors import PodtallyError

PREFIX = "/api/v1/"
ENDPOINTS = PREFIX + "endpoints"
RESOLVE = PREFIX + "resolve"
EXPLAIN = PREFIX + "explain"
CANDIDATES = PREFIX + "candidates"

# RFC 3339 5.6; without an offset it is local time
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


class EndpointRow(msgspec.Struct, frozen=True):
    """Who is behind a watched interface, or behind a socket of the host."""

    interface: str
    ifindex: int
    namespace: str
    pod: str
    workload: str
    workload_kind: str
    source: str  # how it was found
    since: str  # "": not known since when
    addresses: list[str] = []
    uid: str = ""  # of a pod
    labels: dict[str, str] = {}
    waiting: bool = False  # its name may still come, and its flows wait for it


class AddressOwner(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """That somebody has, or had, an address."""

    kind: str  # pod, service, node, host, external, unknown
    namespace: str
    name: str
    workload: str
    scope: str
    from_: str = ""  # "": not known since when
    until: str = ""  # "": it has it now


class Endpoints(msgspec.Struct, frozen=True):
    endpoints: list[EndpointRow]


class ResolveReply(msgspec.Struct, frozen=True):
    """Who has an address, and had it; with ``at`` only who had it then. Empty: nobody known."""

    address: str
    at: str
    held: list[AddressOwner]


class StepRow(msgspec.Struct, frozen=True):
    direction: str
    tier: str
    about: str
    says: str


class ExplainedVerdict(msgspec.Struct, frozen=True):
    """What a set of policies says of a connection."""

    verdict: str
    ingress: str  # the destination's verdict
    egress: str  # the source's
    reason: str
    steps: tuple[StepRow, ...]


class Explanation(msgspec.Struct, frozen=True, rename={"from_": "from"}, omit_defaults=True):
    """Of a connection, by the policies in force; and as it were with the candidates applied."""

    from_: str
    to: str
    protocol: str
    port: int
    verdict: str
    ingress: str
    egress: str
    reason: str
    steps: tuple[StepRow, ...]
    candidate: ExplainedVerdict | None = None  # None, and left out: there are none


class CandidatePolicy(msgspec.Struct, frozen=True):
    kind: str
    namespace: str  # "" where the kind has none
    name: str
    unreadable: str = ""  # why; then it makes `unknown` whatever it may be for


class CandidateDeletion(msgspec.Struct, frozen=True):
    """A policy that is tried as if it were deleted."""

    kind: str
    namespace: str
    name: str
    in_force: bool  # False: it is not there


class CandidateRow(msgspec.Struct, frozen=True):
    """Traffic that was seen, and that the candidates would judge otherwise."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    verdict: str  # as things are
    candidate: str  # with the candidates
    policy: str  # what would deny it; "" where nothing would
    connections: int
    bytes: int


class Candidates(msgspec.Struct, frozen=True):
    """``changes`` are sums since the candidates are what they are."""

    policies: list[CandidatePolicy]
    changes: list[CandidateRow]
    deleted: list[CandidateDeletion] = []
    stale: list[str] = []  # files that cannot be read any more: an earlier version is tried


class ErrorReply(msgspec.Struct, frozen=True):
    error: str
    fix: str


class QuerySource(Protocol):
    """Called from the server's threads, several at once: reads what is swapped by reference."""

    def endpoints(self) -> list[EndpointRow]: ...

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        """``address`` is an IPv4 or IPv6 address, as ``ipaddress`` writes it, never
        IPv4-mapped; ``at_wall`` are seconds since 1970, None for all that is remembered.
        """
        ...

    def explain(self, source: str, destination: str, port: str) -> Explanation:
        """PORT or PORT/PROTO. PodtallyError if it is none, or one of the two is not known."""
        ...

    def candidates(self) -> list[CandidatePolicy]: ...

    def deletions(self) -> list[CandidateDeletion]: ...

    def stale_candidates(self) -> list[str]:
        """Files that cannot be read any more: an earlier version of them is tried."""
        ...


class PublishedTotals(Protocol):
    """What was counted up to the last epoch; called as ``Answers`` is."""

    def candidates(self) -> list[CandidateRow]: ...


class Reply(NamedTuple):
    status: HTTPStatus
    body: bytes


class ApiRouter:
    """Takes a question as it stands in a URL."""

    def __init__(self, answers: QuerySource, published: PublishedTotals) -> None:
        self._answers = answers
        self._published = published

    def reply(self, path: str, query: str) -> Reply:
        if path == ENDPOINTS:
            return reply_json(HTTPStatus.OK, Endpoints(self._answers.endpoints()))
        if path == RESOLVE:
            return self._resolve(query)
        if path == EXPLAIN:
            return self._explain(query)
        if path == CANDIDATES:
            policies, changes = self._answers.candidates(), self._published.candidates()
            deleted, stale = self._answers.deletions(), self._answers.stale_candidates()
            told = Candidates(policies, changes, deleted, stale)
            return reply_json(HTTPStatus.OK, told)
        return reply_json(
            HTTPStatus.NOT_FOUND, ErrorReply(f"there is no {path}", f"try {ENDPOINTS}")
        )

    def _resolve(self, query: str) -> Reply:
        asked = parse_qs(query)
        at = asked.get("at", [""])[-1]
        try:
            address = plain_address(asked.get("address", [""])[-1])
            at_wall = parse_time(at).timestamp() if at else None
        except ValueError as error:
            example = f"for example {RESOLVE}?address=10.0.0.7&at=2026-01-31T23:59:59Z"
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply(str(error), example))
        held = self._answers.resolve(address, at_wall)
        return reply_json(HTTPStatus.OK, ResolveReply(address, at, held))

    def _explain(self, query: str) -> Reply:
        asked = parse_qs(query)
        source, destination, port = (asked.get(name, [""])[-1] for name in ("from", "to", "port"))
        if not source or not destination:
            example = f"for example {EXPLAIN}?from=shop/web&to=203.0.113.10&port=3306/TCP"
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply("from and to are needed", example))
        try:
            told = self._answers.explain(source, destination, port)
        except PodtallyError as error:
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply(error.what, error.fix))
        return reply_json(HTTPStatus.OK, told)


def plain_address(text: str) -> str:
    """An address as ``ipaddress`` writes it, IPv4-mapped as IPv4; ValueError if it is none."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone, and names are kept without")
        return str(address.ipv4_mapped or address)
    return str(address)


def parse_time(text: str) -> datetime.datetime:
    """A time of RFC 3339, with its offset or in local time; ValueError if it is none."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return datetime.datetime.fromisoformat(text.upper()).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time as in RFC 3339") from None


def reply_json(status: HTTPStatus, body: msgspec.Struct) -> Reply:
    return Reply(status, msgspec.json.encode(body) + b"\n")

# SPDX-License-Identifier: Apache-2.0
"""``/api/v1``: the shapes of its replies, as JSON, and how a request is read.

Endpoints, addresses and policies come from a ``QuerySource``, counts from ``PublishedTotals``;
commands decode with the same shapes. All times are RFC 3339, in UTC.
"""

import datetime
import ipaddress
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec

from podtally.api.dns_schema import DnsQueries, NameAnswers
from podtally.errors import PodtallyError

PREFIX = "/api/v1/"
ENDPOINTS = PREFIX + "endpoints"
RESOLVE = PREFIX + "resolve"
EXPLAIN = PREFIX + "explain"
CANDIDATES = PREFIX + "candidates"
TRAFFIC = PREFIX + "traffic"
FLOWS = PREFIX + "flows"
DNS = PREFIX + "dns"
NAMES = PREFIX + "names"
AUDIT = PREFIX + "audit"

# RFC 3339 5.6; without an offset it is local time
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


class EndpointRow(msgspec.Struct, frozen=True):
    """The endpoint behind a watched interface, or behind a socket of the host."""

    interface: str
    ifindex: int
    namespace: str
    pod: str
    workload: str
    workload_kind: str
    source: str  # what named it
    since: str  # "": unknown
    addresses: list[str] = []
    uid: str = ""  # of a pod
    labels: dict[str, str] = {}
    waiting: bool = False  # its name may still arrive; its flows are held back until then


class AddressOwner(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """An owner of an address, now or in the past."""

    kind: str  # pod, service, node, host, external, unknown
    namespace: str
    name: str
    workload: str
    scope: str
    from_: str = ""  # "": unknown
    until: str = ""  # "": now


class Endpoints(msgspec.Struct, frozen=True):
    endpoints: list[EndpointRow]


class ResolveReply(msgspec.Struct, frozen=True):
    """Owners of an address, now and earlier; with ``at`` at that time. Empty: none known."""

    address: str
    at: str
    owners: list[AddressOwner]


class StepRow(msgspec.Struct, frozen=True):
    direction: str
    tier: str
    item: str
    result: str


class ExplainedVerdict(msgspec.Struct, frozen=True):
    """The verdict of a set of policies on a connection, and its steps."""

    verdict: str
    ingress: str  # the destination's verdict
    egress: str  # the source's
    reason: str
    steps: tuple[StepRow, ...]
    strict: str = ""  # as in Explanation


class Explanation(msgspec.Struct, frozen=True, rename={"from_": "from"}, omit_defaults=True):
    """The verdict of the policies in force, and with the candidates applied."""

    from_: str
    to: str
    protocol: str
    port: int
    verdict: str
    ingress: str
    egress: str
    reason: str
    steps: tuple[StepRow, ...]
    strict: str = ""  # the verdict where the TTLs of DNS answers are enforced, if it differs
    candidate: ExplainedVerdict | None = None  # left out if there are no candidates


class CandidatePolicy(msgspec.Struct, frozen=True):
    kind: str
    namespace: str  # "" if cluster-scoped
    name: str
    unreadable: str = ""  # why; all that it might apply to is then `unknown`


class CandidateDeletion(msgspec.Struct, frozen=True):
    """A policy that is evaluated as if it were deleted."""

    kind: str
    namespace: str
    name: str
    in_force: bool  # False: there is no such policy


class CandidateRow(msgspec.Struct, frozen=True):
    """Observed traffic that gets another verdict with the candidates."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    verdict: str  # now
    candidate: str  # with the candidates
    policy: str  # the policy that would deny it, or ""
    peer_domain: str  # of a peer outside, as in the metrics
    connections: int
    bytes: int


class Candidates(msgspec.Struct, frozen=True):
    """``changes`` are sums since the candidates last changed."""

    policies: list[CandidatePolicy]
    changes: list[CandidateRow]
    deleted: list[CandidateDeletion] = []
    stale: list[str] = []  # files that became unreadable; their last version is evaluated
    since: str = ""  # when the candidates last changed; "": unknown


class AuditSums(msgspec.Struct, frozen=True):
    """Connections of endpoints that a policy isolates, by what the cluster did with them."""

    policy: str  # NAMESPACE/NAME or KIND/NAME; several, if they isolate together
    namespace: str  # of the endpoints
    direction: str
    verdict: str  # allowed or denied
    result: str  # enforced, not_enforced, blocked, passed, inconclusive or unavailable
    connections: int
    ends: str = ""  # on this host: "both", or "one"; "" from an older agent


class AuditFinding(msgspec.Struct, frozen=True):
    """Connections with a verdict that was not enforced, or that something else blocked."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    verdict: str
    result: str
    connections: int


class AuditedPolicy(msgspec.Struct, frozen=True):
    name: str  # as in AuditSums
    namespace: str  # "" if cluster-scoped


class Audit(msgspec.Struct, frozen=True):
    """All policies in force, and what was observed of each since the counters began."""

    policies: list[AuditedPolicy]
    results: list[AuditSums]
    findings: list[AuditFinding]


class TrafficSums(msgspec.Struct, frozen=True, array_like=True):
    """A conversation: its labels, bytes of the endpoint, and connections by who opened them."""

    labels: list[str]
    sent: int
    received: int
    begun: int  # by the endpoint
    accepted: int  # opened by the peer
    failed: int = 0  # of both
    outcomes: dict[str, int] = {}  # of both, of those that are decided


class BookSums(msgspec.Struct, frozen=True, array_like=True):
    """The books of an interface and direction."""

    interface: str
    direction: str
    accounts: dict[str, int]  # bytes
    gap: int | None  # None: not reported


class Traffic(msgspec.Struct, frozen=True):
    """All conversations, and the books; ``labels`` names the labels of a conversation."""

    labels: list[str]
    conversations: list[TrafficSums]
    books: list[BookSums]


class Flows(msgspec.Struct, frozen=True):
    """Sums of the history by the labels asked for; ``since`` and ``until`` are of the data."""

    since: str
    until: str
    rows: list[dict[str, Any]]  # labels, connections, bytes, packets, first, last, cost_dollars
    groups: int  # before ``top``


class ErrorReply(msgspec.Struct, frozen=True):
    error: str
    fix: str


class QuerySource(Protocol):
    """Called from several server threads at once: reads what is swapped by reference."""

    def endpoints(self) -> list[EndpointRow]: ...

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        """Return the owners of ``address``, written as ``ipaddress`` does, never IPv4-mapped,
        at ``at_wall`` (seconds since 1970), or all that are remembered.
        """
        ...

    def explain(self, source: str, destination: str, port: str) -> Explanation:
        """``port`` is PORT or PORT/PROTO. PodtallyError if it is invalid or an endpoint unknown."""
        ...

    def candidates(self) -> list[CandidatePolicy]: ...

    def policies(self) -> list[AuditedPolicy]: ...

    def deletions(self) -> list[CandidateDeletion]: ...

    def flows(self, words: Mapping[str, Sequence[str]]) -> Flows:
        """Answer a query of the history; PodtallyError if it is invalid or cannot be answered."""
        ...

    def dns(self, words: Mapping[str, Sequence[str]]) -> DnsQueries:
        """Return the latest questions; PodtallyError if the query is invalid or DNS is off."""
        ...

    def names(self, words: Mapping[str, Sequence[str]]) -> NameAnswers:
        """Return the answers for a name; PodtallyError as for ``dns``."""
        ...

    def stale_candidates(self) -> list[str]:
        """Return files that became unreadable; their last version is evaluated."""
        ...


class PublishedTotals(Protocol):
    """Counts up to the last epoch; called as ``QuerySource`` is."""

    def candidates(self) -> list[CandidateRow]: ...

    def candidates_since(self) -> str: ...

    def traffic(self) -> Traffic: ...

    def audit(self) -> tuple[list[AuditSums], list[AuditFinding]]: ...


class Reply(NamedTuple):
    status: HTTPStatus
    body: bytes


class ApiRouter:
    """Answers a request, given as the path and query of its URL."""

    def __init__(self, source: QuerySource, published: PublishedTotals) -> None:
        self._source = source
        self._published = published

    def reply(self, path: str, query: str) -> Reply:
        if path == ENDPOINTS:
            return reply_json(HTTPStatus.OK, Endpoints(self._source.endpoints()))
        if path in (RESOLVE, EXPLAIN):
            return self._resolve(query) if path == RESOLVE else self._explain(query)
        if path in (TRAFFIC, AUDIT):
            return reply_json(HTTPStatus.OK, self._totals(path))
        if path == CANDIDATES:
            policies, changes = self._source.candidates(), self._published.candidates()
            deleted, stale = self._source.deletions(), self._source.stale_candidates()
            since = self._published.candidates_since()
            reply = Candidates(policies, changes, deleted, stale, since)
            return reply_json(HTTPStatus.OK, reply)
        if path in (FLOWS, DNS, NAMES):
            return self._by_words(path, query)
        error = ErrorReply(f"not found: {path}", f"try {ENDPOINTS}")
        return reply_json(HTTPStatus.NOT_FOUND, error)

    def _totals(self, path: str) -> Traffic | Audit:
        if path == TRAFFIC:
            return self._published.traffic()
        return Audit(self._source.policies(), *self._published.audit())

    def _by_words(self, path: str, query: str) -> Reply:
        source = self._source
        answers = {FLOWS: source.flows, DNS: source.dns, NAMES: source.names}
        try:
            return reply_json(HTTPStatus.OK, answers[path](parse_qs(query)))
        except PodtallyError as error:
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply(error.what, error.fix))

    def _resolve(self, query: str) -> Reply:
        arguments = parse_qs(query)
        at = arguments.get("at", [""])[-1]
        try:
            address = plain_address(arguments.get("address", [""])[-1])
            at_wall = parse_time(at).timestamp() if at else None
        except ValueError as error:
            example = f"for example {RESOLVE}?address=10.0.0.7&at=2026-01-31T23:59:59Z"
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply(str(error), example))
        owners = self._source.resolve(address, at_wall)
        return reply_json(HTTPStatus.OK, ResolveReply(address, at, owners))

    def _explain(self, query: str) -> Reply:
        arguments = parse_qs(query)
        source, destination, port = (
            arguments.get(name, [""])[-1] for name in ("from", "to", "port")
        )
        if not source or not destination:
            example = f"for example {EXPLAIN}?from=shop/web&to=203.0.113.10&port=3306/TCP"
            return reply_json(
                HTTPStatus.BAD_REQUEST, ErrorReply("from and to are required", example)
            )
        try:
            explanation = self._source.explain(source, destination, port)
        except PodtallyError as error:
            return reply_json(HTTPStatus.BAD_REQUEST, ErrorReply(error.what, error.fix))
        return reply_json(HTTPStatus.OK, explanation)


def plain_address(text: str) -> str:
    """Return an address as ``ipaddress`` writes it, IPv4-mapped as IPv4; ValueError."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise ValueError(f"invalid IP address {text!r}") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"invalid IP address {text!r}: drop the zone")
        return str(address.ipv4_mapped or address)
    return str(address)


def parse_time(text: str) -> datetime.datetime:
    """Return a time of RFC 3339, with its offset or in local time; ValueError."""
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return datetime.datetime.fromisoformat(text.upper()).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"invalid time {text!r}: use RFC 3339") from None


def reply_json(status: HTTPStatus, body: msgspec.Struct) -> Reply:
    return Reply(status, msgspec.json.encode(body) + b"\n")

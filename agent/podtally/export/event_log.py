# SPDX-License-Identifier: Apache-2.0
"""The event log: one JSON line for each event that is due.

The ledger decides which events are due, and how often.
"""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from podtally.export.expected import LABELS as EXPECTED_LABELS
from podtally.export.expected import NOTHING_EXPECTED, ComparedTraffic, ExpectedMatcher
from podtally.export.log_records import DirectionSums
from podtally.export.log_sink import json_line, sink
from podtally.ledger.events.events import Due, EventLabels
from podtally.ledger.series.label_sets import DIRECTIONS
from podtally.ledger.verdicts.exposed import UNDECLARED as UNDECLARED_EXPOSURE
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED

EXPOSED = "exposed"  # policy allows it, but no Ingress or Service declares it


class EventEndpoint(msgspec.Struct, frozen=True):
    namespace: str
    pod: str
    workload: str
    workload_kind: str


class EventPeer(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    namespace: str
    workload: str
    name: str
    address: str
    scope: str
    domain: str = ""  # by which the endpoint found it, in full
    domain_source: str = ""
    domain_chain: str = ""  # of aliases


class ScanPeer(msgspec.Struct, frozen=True):
    """One of the peers with most bytes, in both directions, since the agent started."""

    address: str
    bytes: int


class EventScan(msgspec.Struct, frozen=True, omit_defaults=True):
    """The number of different ports and addresses of an event that is a scan."""

    ports: int
    addresses: int
    exact: bool  # whether ``addresses`` is exact, not an estimate
    largest: list[ScanPeer] = []


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line; times are RFC 3339, in UTC, to the millisecond."""

    time: str
    event: str  # denied, undeclared, exposed, unknown, expired, spoofed, not_enforced, blocked
    cluster: str = ""  # left out unless it is configured
    node: str = ""
    direction: str  # egress: the endpoint opened the connection
    endpoint: EventEndpoint
    peer: EventPeer
    protocol: str
    port: int | None  # None: unknown, or one of many
    policy: str
    reason: str
    verdict: str = ""  # left out where it is the event
    exposure: str = ""
    expected: str = ""  # why it is known: see ``expected`` in the configuration
    scan: EventScan | None = None
    connections: int
    new_connections: int
    outcomes: dict[str, int] = {}  # of connections whose outcome is decided
    bytes: DirectionSums
    first: str
    last: str


class EventOrigin(NamedTuple):
    """Where an agent runs, for readers of many agents' logs, and what it expects."""

    cluster: str = ""
    node: str = ""
    expected: ExpectedMatcher = NOTHING_EXPECTED


NO_ORIGIN = EventOrigin()


class EventLog:
    """Appends to a file that rolls beyond ``max_bytes``, or to standard output (``-``).

    ``rate`` is the limit in lines per second, with bursts of the lines of one second.
    """

    def __init__(
        self, path: str, max_bytes: int, rate: int, origin: EventOrigin = NO_ORIGIN
    ) -> None:
        self._rate = rate
        self._origin = origin
        self._room = float(rate)
        self._asked_ns = 0
        self._out = sink(path, max_bytes, "--events")

    def room(self, now_ns: int) -> int:
        """Return how many lines may be written now."""
        since_seconds = (now_ns - self._asked_ns) / 1e9
        self._asked_ns = now_ns
        self._room = min(self._rate, self._room + since_seconds * self._rate)
        return int(self._room)

    def write(self, due: Sequence[Due], now_ns: int, now: datetime.datetime) -> int:
        """Append a line for each event and return how many; OSError: none of them is in the log.

        Without events, this sends what a slow reader of standard output has not taken yet.
        ``now_ns`` (CLOCK_MONOTONIC) and ``now`` are the same instant on two clocks.
        """
        self._out.append(
            b"".join(json_line(event(each, now_ns, now, self._origin)) for each in due)
        )
        self._room -= len(due)
        return len(due)

    def close(self) -> None:
        self._out.close()


def event(
    due: Due, now_ns: int, now: datetime.datetime, origin: EventOrigin = NO_ORIGIN
) -> EventRecord:
    labels = due.labels

    def at(instant_ns: int) -> str:
        return _rfc3339(now - datetime.timedelta(microseconds=(now_ns - instant_ns) // 1000))

    return EventRecord(
        time=_rfc3339(now),
        event=kind(labels),
        cluster=origin.cluster,
        node=origin.node,
        direction=labels.direction,
        endpoint=_endpoint(labels),
        peer=_peer(labels),
        protocol=labels.protocol,
        port=int(labels.port) if labels.port.isdecimal() else None,
        policy=labels.policy,
        reason=reason(due),
        verdict=labels.verdict if kind(labels) != labels.verdict else "",
        exposure=labels.exposure,
        expected=_expected(labels, origin.expected, now),
        scan=_scan(due),
        connections=due.connections,
        new_connections=due.new_connections,
        outcomes=dict(due.outcomes),
        bytes=DirectionSums(due.egress_bytes, due.ingress_bytes),
        first=at(due.first_ns),
        last=at(due.last_ns),
    )


def _expected(labels: EventLabels, matcher: ExpectedMatcher, now: datetime.datetime) -> str:
    """Return why a denied or undeclared event is expected, if it is."""
    if not matcher or labels.verdict not in (DENIED, UNDECLARED):
        return ""
    traffic = ComparedTraffic(*(getattr(labels, name) for name in EXPECTED_LABELS))
    return matcher.reason(traffic, now.astimezone(datetime.UTC).date())


def _scan(due: Due) -> EventScan | None:
    if due.scan is None:
        return None
    ports, addresses, exact, largest = due.scan
    return EventScan(ports, addresses, exact, [ScanPeer(*each) for each in largest])


def reason(due: Due) -> str:
    """Return the reason; for a scan, with the number of ports and addresses."""
    scan = due.scan
    if scan is None:
        return due.labels.reason
    preposition = "on" if due.labels.direction == DIRECTIONS[0] else "from"
    ports = f"{scan.ports:,} port{'' if scan.ports == 1 else 's'}"
    about = "" if scan.exact else "about "
    addresses = f"{about}{scan.addresses:,} address{'' if scan.addresses == 1 else 'es'}"
    words = f"{due.labels.reason}: {ports} {preposition} {addresses}"
    if scan.addresses > 1 and scan.largest:
        address, amount = scan.largest[0]
        words += f"; {amount:,} bytes with {address}"
    return words


def kind(labels: EventLabels) -> str:
    """Return the kind of event: the verdict, or EXPOSED if policy allows it."""
    is_exposed = labels.exposure == UNDECLARED_EXPOSURE and labels.verdict == ALLOWED
    return EXPOSED if is_exposed else labels.verdict


def _endpoint(labels: EventLabels) -> EventEndpoint:
    return EventEndpoint(
        namespace=labels.namespace,
        pod=labels.pod,
        workload=labels.workload,
        workload_kind=labels.workload_kind,
    )


def _peer(labels: EventLabels) -> EventPeer:
    return EventPeer(
        kind=labels.peer_kind,
        namespace=labels.peer_namespace,
        workload=labels.peer_workload,
        name=labels.peer_name,
        address=labels.peer_address,
        domain=labels.peer_domain,
        domain_source=labels.domain_source,
        domain_chain=labels.domain_chain,
        scope=labels.scope,
    )


def _rfc3339(time: datetime.datetime) -> str:
    plain = time.astimezone(datetime.UTC).replace(tzinfo=None)
    return plain.isoformat(timespec="milliseconds") + "Z"

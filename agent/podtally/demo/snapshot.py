# SPDX-License-Identifier: Apache-2.0
"""The demo's pods as the agent reports them: conversations, verdicts, and the books."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from podtally.commands.traffic.conversations import (
    EGRESS,
    INGRESS,
    Book,
    BookPage,
    Conversation,
    TrafficReader,
    TrafficSnapshot,
    directions,
)
from podtally.commands.traffic.text_format import Sample, parse
from podtally.demo.topology import STRAY, Host
from podtally.export.event_log import EventRecord
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED, UNKNOWN

_BYTES, _PACKETS = "podtally_pod_bytes_total", "podtally_pod_packets_total"
_DENIED = "podtally_policy_denied_total"
_BEST_FIRST = (ALLOWED, UNDECLARED, UNKNOWN, DENIED)


class PodConversation(NamedTuple):
    """A conversation of a pod: one peer, one server port, bytes of both directions."""

    peer: str
    protocol: str
    port: str
    bytes: int
    outside: bool  # neither of this node nor named in the configuration
    verdict: str


class PodRow(NamedTuple):
    """A pod: the conversations that peers opened, those that it opened, and its totals."""

    pod: str
    inbound: tuple[PodConversation, ...]
    outbound: tuple[PodConversation, ...]
    received_bytes: int
    sent_bytes: int
    packets: int
    denied: int  # connections that policy denies, counted at this pod


class BookRow(NamedTuple):
    """One page of the books, in bytes; ``gap`` is None if it is not reported."""

    interface: str
    direction: str
    flows: int
    other: int
    overflow: int
    gap: int | None


class Snapshot(NamedTuple):
    """Metrics and event log at one moment; ``at_seconds`` since the traffic started."""

    at_seconds: float
    pods: tuple[PodRow, ...]
    books: tuple[BookRow, ...]
    events: tuple[EventRecord, ...]  # the last record of each


def make_snapshot(
    metrics: str,
    events: tuple[EventRecord, ...],
    pods: Sequence[Host],
    at_seconds: float,
) -> Snapshot:
    """Return a row for each of ``pods``, seen or not, and the books of their interfaces.

    ValueError if the metrics are not podtally's.
    """
    traffic, samples = TrafficReader().read(metrics, at_seconds), parse(metrics)
    rows = tuple(_pod(samples, traffic, pod) for pod in pods)
    books = _books(traffic, (pod.interface for pod in pods))
    return Snapshot(at_seconds, rows, books, events)


def faults(final: Snapshot) -> list[str]:
    """Return what is wrong with the books or with the stray's verdict, one line each.

    A pod without traffic is a fault: silence proves nothing.
    """
    found = []
    for row in final.pods:
        if not (row.received_bytes and row.sent_bytes):
            found.append(f"pod {row.pod}: no traffic in both directions")
        if row.pod == STRAY.pod and (missing := _not_denied(row, final.events)):
            found.append(f"pod {row.pod}: not denied according to {', '.join(missing)}")
    for book in final.books:
        if book.gap is None:
            found.append(f"{book.interface} {book.direction}: no gap reported")
        elif book.gap:
            found.append(f"{book.interface} {book.direction}: a gap of {book.gap} bytes")
    return found


def _not_denied(row: PodRow, events: Iterable[EventRecord]) -> list[str]:
    """Return the sources that should report the pod's denied connections, and do not."""
    reports = {
        "the flows' verdict": any(each.verdict == DENIED for each in row.outbound),
        _DENIED: row.denied > 0,
        "the event log": any(
            (event.endpoint.pod, event.event, event.direction) == (row.pod, DENIED, "egress")
            for event in events
        ),
    }
    return [source for source, reported in reports.items() if not reported]


def _pod(samples: Iterable[Sample], traffic: TrafficSnapshot, pod: Host) -> PodRow:
    totals: dict[tuple[str, str], int] = defaultdict(int)
    denied = 0
    for sample in samples:
        if sample.label("pod") == pod.pod:
            totals[sample.name, sample.label("direction")] += int(sample.value)
        elif sample.name == _DENIED and sample.label("workload") == pod.name:
            denied += int(sample.value)
    inbound, outbound = _conversations(traffic, pod)
    return PodRow(
        pod=pod.pod,
        inbound=inbound,
        outbound=outbound,
        received_bytes=totals[_BYTES, INGRESS],
        sent_bytes=totals[_BYTES, EGRESS],
        packets=totals[_PACKETS, INGRESS] + totals[_PACKETS, EGRESS],
        denied=denied,
    )


def _conversations(
    traffic: TrafficSnapshot, pod: Host
) -> tuple[tuple[PodConversation, ...], tuple[PodConversation, ...]]:
    """Return those that peers opened and those that the pod opened, whatever their verdict."""
    opened_by = directions(traffic.conversations)
    merged: dict[Conversation, list[Conversation]] = defaultdict(list)
    for each in traffic.conversations:
        if (each.namespace, each.workload) == (pod.namespace, pod.name):
            merged[each._replace(verdict="")].append(each)
    found: dict[str, list[PodConversation]] = {INGRESS: [], EGRESS: []}
    for parts in merged.values():
        row = _pod_conversation(parts, traffic)
        openers = {opened_by[part] for part in parts}
        for direction, rows in found.items():
            if openers & {direction, "both"}:
                rows.append(row)
    inbound, outbound = (tuple(sorted(r, key=lambda row: -row.bytes)) for r in found.values())
    return inbound, outbound


def _pod_conversation(parts: Sequence[Conversation], traffic: TrafficSnapshot) -> PodConversation:
    """Merge the parts of a conversation, which differ in their verdict."""
    counts = {part.verdict: traffic.conversations[part].bytes for part in parts}
    one = parts[0]
    nameless = not one.peer_workload
    # An address without a name is shown by its domain, or by its scope: internet, private.
    return PodConversation(
        peer=one.peer_workload or one.peer_domain or one.scope or "unknown",
        protocol=one.protocol,
        port=one.port,
        bytes=sum(counts.values()),
        outside=nameless and one.peer_kind in ("external", "unknown"),
        verdict=_worst(verdict for verdict, count in counts.items() if count),
    )


def _worst(verdicts: Iterable[str]) -> str:
    """Return the worst verdict; an unfamiliar one counts as unknown."""
    known = (verdict if verdict in _BEST_FIRST else UNKNOWN for verdict in verdicts)
    return max(known, key=_BEST_FIRST.index, default=UNKNOWN)


def _books(traffic: TrafficSnapshot, interfaces: Iterable[str]) -> tuple[BookRow, ...]:
    """Return a row for each page of these interfaces, reported or not."""
    books = {book.page: book for book in traffic.books}
    rows = []
    for page in (BookPage(name, way) for name in interfaces for way in (INGRESS, EGRESS)):
        book = books.get(page, Book(page, {}, None))
        flows, other, overflow = (
            book.accounts.get(account, 0) for account in ("flows", "other", "overflow")
        )
        rows.append(BookRow(*page, flows=flows, other=other, overflow=overflow, gap=book.gap))
    return tuple(rows)

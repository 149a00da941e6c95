# SPDX-License-Identifier: Apache-2.0
"""Draws a snapshot as lines of text or as JSON; pure."""

import json
from collections.abc import Sequence

import msgspec

from podtally.commands.shared.tables import (
    BOLD,
    GREEN,
    RED,
    Cell,
    Style,
    human,
    paint,
    table,
    verdict_cell,
    verdict_colour,
    wrapped,
)
from podtally.demo.snapshot import BookRow, PodConversation, PodRow, Snapshot, faults
from podtally.export.event_log import EventRecord
from podtally.policy.model import DENIED

_MAX_LINES = 4  # of a pod, so that the table fits one screen
_MAX_EVENTS = 3
_WIDE_COLUMNS = 100
_RATE_COLUMNS = 76  # what the demo's longest names and rates need

_TITLE = "user -> frontend :80 -> backend :3000 -> database :3306; payments; a stray pod"
_REASON_INDENT = 4

NOT_ENFORCED = "not_enforced"
_Key = tuple[str, bool, str, str, str]  # pod, whether it is outbound, peer, protocol, port


def render(now: Snapshot, before: Snapshot, url: str, style: Style) -> list[str]:
    """Return the lines of ``now``, with rates since ``before``; the books only if they fit."""
    above = [
        *_painted(_TITLE, BOLD, style),
        *wrapped(f"{now.at_seconds:.0f} s of traffic; all metrics: {url}", 0, style),
        "",
        *table(_pods(now, before, style), style),
        "",
        *_events(now.events, style),
        "",
    ]
    books, below = [*table(_books(now.books), style), ""], _summary(now, style)
    rows = len(above) + len(books) + len(below)
    return [*above, *(books if style.rows is None or rows <= style.rows else []), *below]


def to_json(final: Snapshot) -> str:
    """Return the final table as JSON: bytes, and seconds of traffic."""
    pods = [
        row._asdict()
        | {"inbound": [each._asdict() for each in row.inbound]}
        | {"outbound": [each._asdict() for each in row.outbound]}
        for row in final.pods
    ]
    found = {
        "seconds": round(final.at_seconds, 3),
        "pods": pods,
        "events": msgspec.to_builtins(final.events),
        "books": [book._asdict() for book in final.books],
        "faults": faults(final),
    }
    return json.dumps(found, indent=2)


def _pods(now: Snapshot, before: Snapshot, style: Style) -> list[list[Cell]]:
    """Return a line for each conversation; pod totals only if wide, rates unless narrow."""
    totals = ["received", "sent", "packets"] if style.columns >= _WIDE_COLUMNS else []
    rates = ["rate"] if style.columns >= _RATE_COLUMNS else []
    heads = ["pod", *totals, "conversation", "verdict", "bytes", *rates]
    rows = [[Cell(head.upper(), BOLD, head in (*totals, "bytes", "rate")) for head in heads]]
    span = now.at_seconds - before.at_seconds
    earlier = {key: use.bytes for row in before.pods for key, use in _keyed(row)}
    for row in now.pods:
        lines = [
            _use(key, use, (use.bytes - earlier.get(key, 0)) / span if span > 0 else 0.0)[
                : 3 + len(rates)
            ]
            for key, use in _keyed(row)
        ] or [[Cell("-")]]
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES - 1 :] = [[Cell(f"and {len(lines) - _MAX_LINES + 1} more")]]
        figures = (human(row.received_bytes), human(row.sent_bytes), f"{row.packets:,}")
        first = [Cell(row.pod), *(Cell(text, right=True) for text in figures[: len(totals)])]
        further = [Cell("")] * len(first)
        rows += [[*(further if i else first), *line] for i, line in enumerate(lines)]
    return rows


def _keyed(row: PodRow) -> list[tuple[_Key, PodConversation]]:
    """Return the conversations by key; if they are many, denied ones first: never left out."""
    uses = [
        ((row.pod, outbound, use.peer, use.protocol, use.port), use)
        for outbound, some in ((False, row.inbound), (True, row.outbound))
        for use in some
    ]
    if len(uses) > _MAX_LINES:
        uses.sort(key=lambda keyed: keyed[1].verdict != DENIED)
    return uses


def _use(key: _Key, use: PodConversation, rate: float) -> list[Cell]:
    return [
        Cell(_conversation(use, outbound=key[1]), verdict_colour(use.verdict)),
        verdict_cell(use.verdict),
        Cell(human(use.bytes), right=True),
        Cell(human(rate) + "/s", right=True),
    ]


def _conversation(use: PodConversation, outbound: bool) -> str:
    """Return the peer and the server's port, or the protocol if it has no ports."""
    has_port = use.port not in ("", "0")
    if outbound:
        return f"-> {use.peer} " + (f":{use.port}" if has_port else f"({use.protocol})")
    return (f":{use.port}" if has_port else use.protocol) + f" <- {use.peer}"


def _events(events: Sequence[EventRecord], style: Style) -> list[str]:
    """Return the last events, denials first, each with its reason below it."""
    head = _painted(
        "EVENTS (connections that no policy allows; podtally blocks nothing)",
        BOLD,
        style,
    )
    unenforced = {_about(event): event for event in events if event.event == NOT_ENFORCED}
    denied = {_about(event) for event in events if event.event == DENIED}
    events = [each for each in events if each.event != NOT_ENFORCED or _about(each) not in denied]
    shown = sorted(events, key=lambda event: (event.event == DENIED, event.time))[-_MAX_EVENTS:]
    lines = head if events else [*head, "none"]
    for event in events:
        if event in shown:
            lines += _painted(_event(event), verdict_colour(event.event), style)
            lines += wrapped(event.reason, _REASON_INDENT, style)
            if event.event == DENIED and (passed := unenforced.get(_about(event))) is not None:
                lines += wrapped(_passed(passed), _REASON_INDENT, style)
    if len(events) > len(shown):
        lines.append(f"and {len(events) - len(shown)} more")
    return lines


def _about(event: EventRecord) -> tuple[object, ...]:
    """Return what a denial and its event not_enforced have in common."""
    endpoint, peer = event.endpoint, event.peer
    ends = (endpoint.namespace, endpoint.pod, event.direction, peer.address)
    return (*ends, event.protocol, event.port)


def _passed(event: EventRecord) -> str:
    """Say what the event not_enforced means, where its denial stands."""
    return (
        f"not enforced ({event.connections:,} of them, event {NOT_ENFORCED}): the demo has no "
        "network plugin that blocks what policies deny"
    )


def _event(event: EventRecord) -> str:
    peer = event.peer
    who = peer.name or peer.workload or peer.domain or peer.scope
    name = f"{who} {peer.address}".strip()
    port = f":{event.port}" if event.port else f" ({event.protocol})"
    connection = f"-> {name}{port}" if event.direction == "egress" else f"{port} <- {name}"
    time = event.time.partition("T")[2][:8]  # UTC
    plural = "" if event.connections == 1 else "s"
    count = f"{event.connections:,} connection{plural}"
    return f"{time}Z  {event.endpoint.pod} {connection.strip()}  {event.event}  {count}"


def _books(books: Sequence[BookRow]) -> list[list[Cell]]:
    heads = ["books (bytes)", "", "flows", "other", "overflow", "gap"]
    rows = [[Cell(head.upper(), BOLD, i > 1) for i, head in enumerate(heads)]]
    for book in books:
        counts = (book.flows, book.other, book.overflow)
        gap = "?" if book.gap is None else f"{book.gap:,}"
        rows.append(
            [
                Cell(book.interface),
                Cell(book.direction),
                *(Cell(f"{count:,}", right=True) for count in counts),
                Cell(gap, GREEN if book.gap == 0 else RED, right=True),
            ]
        )
    return rows


def _summary(now: Snapshot, style: Style) -> list[str]:
    wrong = faults(now)
    if wrong:
        return [line for fault in wrong[:3] for line in _painted(fault, RED, style)]
    counted = sum(book.flows + book.other + book.overflow for book in now.books)
    text = f"the books close: {counted:,} bytes on the interfaces, all accounted for"
    return _painted(text, GREEN, style)


def _painted(text: str, colour: str, style: Style) -> list[str]:
    return [paint(line, colour, style) for line in wrapped(text, 0, style)]

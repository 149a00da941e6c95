# SPDX-License-Identifier: Apache-2.0
"""What the agent says of the demo's pods: who uses them, whom they ask, what of it policy denies,
and the books.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from podtally.commands.text_format import Sample
from podtally.demo.topology import STRAY, Host
from podtally.export.event_log import EventRecord
from podtally.policy.model import ALLOWED, DENIED, UNDECLARED, UNKNOWN

_BEST_FIRST = (ALLOWED, UNDECLARED, UNKNOWN, DENIED)

# The labels of a flow's series, but for its direction and verdict: the two directions of
# a conversation are one line of the view.
_CONVERSATION = (
    "namespace", "workload", "workload_kind", "peer_kind", "peer_namespace", "peer_workload",
    "scope", "protocol", "port",
)  # fmt: skip


class PodConversation(NamedTuple):
    """A conversation of a pod: one peer, one server port, bytes of both directions."""

    peer: str
    protocol: str
    port: str
    bytes: int
    outside: bool  # neither the node's nor named in the configuration
    verdict: str


class PodRow(NamedTuple):
    """A pod: what it serves and to whom, what it asks of whom, and its totals."""

    pod: str
    served: tuple[PodConversation, ...]
    asked: tuple[PodConversation, ...]
    received_bytes: int
    sent_bytes: int
    packets: int
    denied: int  # connections that policy denies at its end


class BookRow(NamedTuple):
    """One page of the books, in bytes; ``gap`` is None where the agent has not said."""

    interface: str
    direction: str
    flows: int
    other: int
    overflow: int
    gap: int | None


class Snapshot(NamedTuple):
    """The metrics and the event log at one moment; ``at_seconds`` is since the traffic began."""

    at_seconds: float
    pods: tuple[PodRow, ...]
    books: tuple[BookRow, ...]
    events: tuple[EventRecord, ...]  # each as it was last told


def make_snapshot(
    samples: Sequence[Sample],
    events: tuple[EventRecord, ...],
    pods: Sequence[Host],
    at_seconds: float,
) -> Snapshot:
    """Return a row for each of ``pods``, seen or not, and the books of their interfaces."""
    began = _began(samples)
    rows = tuple(_pod(samples, began, pod) for pod in pods)
    interfaces = tuple(pod.interface for pod in pods)
    return Snapshot(at_seconds, rows, _books(samples, interfaces), events)


def faults(final: Snapshot) -> list[str]:
    """Return what is wrong, one line each, with the books or with what is said of the stray.

    Silence is no proof.
    """
    found = []
    for row in final.pods:
        if not (row.received_bytes and row.sent_bytes):
            found.append(f"pod {row.pod}: no traffic seen both ways")
        if row.pod == STRAY.pod and (missing := _not_denied(row, final.events)):
            found.append(f"pod {row.pod}: not seen as denied by {', '.join(missing)}")
    for book in final.books:
        if book.gap is None:
            found.append(f"{book.interface} {book.direction}: no gap reported")
        elif book.gap:
            found.append(f"{book.interface} {book.direction}: a gap of {book.gap} bytes")
    return found


def _not_denied(row: PodRow, events: Iterable[EventRecord]) -> list[str]:
    """Return which of those that should tell that what a pod asks is denied do not."""
    tells = {
        "the flows' verdict": any(use.verdict == DENIED for use in row.asked),
        "podtally_policy_denied_total": row.denied > 0,
        "the event log": any(
            (event.local.pod, event.event, event.direction) == (row.pod, DENIED, "egress")
            for event in events
        ),
    }
    return [who for who, has_told in tells.items() if not has_told]


def _conversation(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.label(name) for name in _CONVERSATION)


def _began(samples: Iterable[Sample]) -> dict[tuple[str, ...], set[str]]:
    """Who began each conversation: the peer where a connection came in (``ingress``)."""
    began: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for sample in samples:
        if sample.name == "podtally_connections_total" and sample.value > 0:
            began[_conversation(sample)].add(sample.label("direction"))
    return began


def _pod(samples: Iterable[Sample], began: dict[tuple[str, ...], set[str]], pod: Host) -> PodRow:
    totals: dict[tuple[str, str], int] = defaultdict(int)
    denied = 0
    for sample in samples:
        if sample.label("pod") == pod.pod:
            totals[sample.name, sample.label("direction")] += int(sample.value)
        elif sample.name == "podtally_policy_denied_total":
            denied += int(sample.value) if sample.label("workload") == pod.name else 0
    uses = _uses(samples, pod)

    def toward(direction: str) -> tuple[PodConversation, ...]:
        lines = [use for key, use in uses.items() if direction in began[key]]
        return tuple(sorted(lines, key=lambda use: -use.bytes))

    bytes_, packets = "podtally_pod_bytes_total", "podtally_pod_packets_total"
    return PodRow(
        pod.pod,
        toward("ingress"),
        toward("egress"),
        totals[bytes_, "ingress"],
        totals[bytes_, "egress"],
        totals[packets, "ingress"] + totals[packets, "egress"],
        denied,
    )


def _uses(samples: Iterable[Sample], pod: Host) -> dict[tuple[str, ...], PodConversation]:
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    verdicts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for sample in samples:
        if sample.name == "podtally_flow_bytes_total" and sample.label("workload") == pod.name:
            counts[_conversation(sample)] += int(sample.value)
            if sample.value:
                verdicts[_conversation(sample)].append(sample.label("verdict"))
    return {key: _use(key, count, _worst(verdicts[key])) for key, count in counts.items()}


def _worst(verdicts: Iterable[str]) -> str:
    """Return the one to be shown of several; a word that is none of them counts as not known."""
    known = (verdict if verdict in _BEST_FIRST else UNKNOWN for verdict in verdicts)
    return max(known, key=_BEST_FIRST.index, default=UNKNOWN)


def _use(key: tuple[str, ...], count: int, verdict: str) -> PodConversation:
    label = dict(zip(_CONVERSATION, key, strict=True))
    nameless = not label["peer_workload"]
    # An address without a name goes by how far away it is: internet, private.
    peer = label["scope"] if nameless else label["peer_workload"]
    outside = nameless and label["peer_kind"] in ("external", "unknown")
    return PodConversation(
        peer or "unknown", label["protocol"], label["port"], count, outside, verdict
    )


def _books(samples: Sequence[Sample], interfaces: Sequence[str]) -> tuple[BookRow, ...]:
    accounts: dict[tuple[str, str, str], int] = defaultdict(int)
    gaps: dict[tuple[str, str], int] = {}
    for sample in samples:
        page = (sample.label("interface"), sample.label("direction"))
        if sample.name == "podtally_books_bytes_total":
            accounts[(*page, sample.label("account"))] += int(sample.value)
        elif sample.name == "podtally_books_gap_bytes":
            gaps[page] = int(sample.value)
    return tuple(
        BookRow(
            interface,
            direction,
            accounts[interface, direction, "flows"],
            accounts[interface, direction, "other"],
            accounts[interface, direction, "overflow"],
            gaps.get((interface, direction)),
        )
        for interface in interfaces
        for direction in ("ingress", "egress")
    )

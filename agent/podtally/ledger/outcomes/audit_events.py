# SPDX-License-Identifier: Apache-2.0
"""Reports connections with a verdict that is not enforced, or that something else blocks.

The loop is over what differs in an event: the account and the result.
"""

from ipaddress import IPv6Address

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.accounts.outcome_series import Cells, FindAccounts
from podtally.ledger.connections.account import Account, port_name, protocol_of
from podtally.ledger.connections.connections import ConnectionColumns
from podtally.ledger.events.events import EventLabels, Events
from podtally.ledger.series.label_sets import DIRECTIONS
from podtally.outcomes import enforcement
from podtally.outcomes.decision import (
    ANSWERED,
    ESTABLISHED,
    HALF_OPEN,
    REFUSED,
    REJECTED_BY_ICMP,
    UNANSWERED,
)
from podtally.outcomes.enforcement import RESULTS
from podtally.outcomes.progress import RELAYED

_SLACK = 16  # labels beyond twice the events; most labels have one, those of scans share some
_SEPARATOR = ": "
_FINDINGS = {RESULTS[each] for each in enforcement.FINDINGS}
_SHOWN = {
    ESTABLISHED: "the handshake was completed",
    ANSWERED: "packets went both ways",
    HALF_OPEN: "the SYN was answered with a SYN/ACK",
    REFUSED: "the endpoint itself refused the SYN, which had reached it",
}


class AuditEvents:
    """Over the events of one ledger."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: dict[EventLabels, int] = {}  # without what is of the first connection only

    def report(
        self, columns: ConnectionColumns, judged: Cells, accounts: FindAccounts, now_ns: int
    ) -> None:
        """Count findings among connections (n,) in one event for each account and result."""
        rows = np.flatnonzero(np.isin(judged.value, enforcement.FINDINGS))
        if not len(rows):
            return
        keys = np.column_stack([column[rows] for column in judged])
        _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        found = accounts(np.unique(judged.account[rows]))
        numbers = []
        for row in rows[first].tolist():
            account = found[int(judged.account[row])]
            result, direction = int(judged.value[row]), int(judged.direction[row])
            labels = _labels(account, columns, row, result, direction)
            numbers.append(self._number(labels, columns, row, now_ns))
        event = np.array(numbers, np.int32)[place.ravel()]
        self._events.count(event, now_ns)
        self._events.outcomes.add(event, columns.outcome[rows])
        self._events.add_bytes(event, columns.bytes[rows], now_ns)

    def _number(
        self, labels: EventLabels, columns: ConnectionColumns, row: int, now_ns: int
    ) -> int:
        """Return the event; the peer's address, and the packets that show it, are those of the
        first connection in it.
        """
        if not self._known or len(self._known) > 2 * len(self._events) + _SLACK:
            pairs = self._events.table.pairs()  # after a restart, those of the checkpoint
            self._known = {_plain(each): n for n, each in pairs if each.verdict in _FINDINGS}
        known = self._known.get(labels)
        if known is not None:
            there = self._events.table.labels_at(known)
            if there is not None and _plain(there) == labels:
                return known
        address = _text(columns.key["remote_address"][row])
        first_ns = int(columns.first_ns[row])
        reason = labels.reason + _SEPARATOR + _packets(columns, row)
        whole = labels._replace(peer_address=address, reason=reason)
        number = self._events.index_of(whole, first_ns, now_ns)
        self._known[labels] = number
        return number


def _plain(event: EventLabels) -> EventLabels:
    """Return the labels without what is of the first connection only."""
    return event._replace(peer_address="", reason=event.reason.partition(_SEPARATOR)[0])


def _packets(columns: ConnectionColumns, row: int) -> str:
    """Return the ends of a connection, and its packets so far, as its endpoint saw them."""
    key = columns.key[row]
    ends = []
    for side in ("local", "remote"):
        address = _text(key[f"{side}_address"])
        shown = f"[{address}]" if ":" in address else address
        ends.append(f"{shown}:{key[f'{side}_port']}")
    sent, received = columns.packets[row].tolist()
    return f"{ends[0]} with {ends[1]}, packets: {sent} sent, {received} received"


def _labels(
    account: Account, columns: ConnectionColumns, row: int, result: int, direction: int
) -> EventLabels:
    judgement = account.judgement
    return EventLabels(
        verdict=RESULTS[result],
        direction=DIRECTIONS[direction],
        namespace=account.endpoint_namespace or account.namespace,
        pod=account.endpoint,
        workload=account.workload,
        workload_kind=account.workload_kind,
        peer_kind=account.peer_kind,
        peer_namespace=account.peer_namespace,
        peer_workload=account.peer_workload,
        peer_name="",
        peer_address="",
        scope=account.scope,
        protocol=protocol_of(account),
        port=port_name(account.port),
        policy=judgement.policy or judgement.allowed_by,
        reason=_reason(columns, row, result),
        exposure="",
    )


def _reason(columns: ConnectionColumns, row: int, result: int) -> str:
    outcome, progress = int(columns.outcome[row]), columns.progress[row]
    if outcome == REJECTED_BY_ICMP:
        kind, code = divmod(int(progress["icmp"]), 256)
        sender = "another host" if int(progress["facts"]) & RELAYED else "the other end"
        shown = f"rejected by an ICMP error of {sender} (type {kind}, code {code})"
    elif outcome == UNANSWERED:
        shown = "SYNs were repeated and not answered"
    else:
        shown = _SHOWN[outcome]
    denied = result == enforcement.NOT_ENFORCED
    return f"{'denied' if denied else 'allowed'} by policy, yet {shown}"


def _text(address: NDArray[np.uint64]) -> str:
    parsed = IPv6Address(address.tobytes())
    return str(parsed.ipv4_mapped or parsed)

# SPDX-License-Identifier: Apache-2.0
"""Finds the event of each connection that is reported: denied, undeclared, exposed, unknown
though policies isolate the endpoint, spoofed.

The loop is over what differs in an event, of connections that have just been judged.
"""

from ipaddress import IPv6Address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import Endpoint, Owner
from podtally.ledger.account import Judgement, port_name
from podtally.ledger.connections import BEGAN_HERE
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.event_keys import ANY_PEER, ANY_PORT, KEY, KnownKeys, hashed
from podtally.ledger.events import NO_EVENT, EventLabels, Events, with_any_peer, with_any_port
from podtally.ledger.judge_input import UNDECLARED as UNDECLARED_EXPOSURE
from podtally.ledger.judge_input import JudgeInput, exposures
from podtally.ledger.label_sets import DIRECTIONS, OTHER, protocol_name
from podtally.ledger.peer_columns import NO_OWNER
from podtally.ledger.verdicts import FOREIGN_SOURCE, ConnectionVerdicts, VerdictStage
from podtally.policy.model import DENIED, UNDECLARED, VERDICTS

SPOOFED = "spoofed"  # an event's verdict
_ANYBODY = ("unknown", "", "", "", "", "unknown", OTHER, OTHER)  # peer, scope, protocol, port
_SPOOFED_KEY = 2
_MOST_REMEMBERED = 1 << 16
_DENIED, _UNDECLARED = VERDICTS.index(DENIED), VERDICTS.index(UNDECLARED)


class JudgedConnections(NamedTuple):
    """Connections that have been judged; index i of every array is the same one."""

    ends: JudgeInput
    verdicts: ConnectionVerdicts
    is_missed: NDArray[np.bool_]  # see Judgement
    outside: NDArray[np.bool_]  # opened from outside the cluster, to a pod
    who: NDArray[np.int64]  # places in ``whos``
    first_ns: NDArray[np.int64]
    port: NDArray[np.int64]  # of who was asked; UNKNOWN_PORT
    whos: list[Endpoint]


class EventMatcher:
    """``verdicts`` are those that are told of beside `denied`, which always is: its
    connections are counted by their events.
    """

    def __init__(self, events: Events, judging: VerdictStage, undeclared: bool) -> None:
        self._events = events
        self._judging = judging
        self._undeclared = undeclared
        self._known = KnownKeys()
        self._known_of: tuple[object, ...] = ()

    def note(self, judged: JudgedConnections, present: EpochContext) -> NDArray[np.int32]:
        """The events of connections; NO_EVENT of those that are not told of. (n,)"""
        found = np.full(len(judged.who), NO_EVENT, np.int32)
        rows = np.flatnonzero(self._notable(judged))
        if not len(rows):
            return found
        self._keep_known(present)
        keys = self._keys(judged, rows)
        found[rows] = self._numbers(keys, rows, judged, present)
        self._events.observe(found[rows], judged.port[rows], judged.ends.address[rows])
        return found

    def _numbers(
        self,
        keys: NDArray[np.void],
        rows: NDArray[np.int64],
        judged: JudgedConnections,
        present: EpochContext,
    ) -> NDArray[np.int64]:
        """The events of keys; the loop is over the new ones within their endpoint's share."""
        number, known = self._known.find(hashed(keys))
        new = np.flatnonzero(~known)
        if len(new):
            _, first, place = np.unique(hashed(keys[new]), return_index=True, return_inverse=True)
            shared = self._known.shared(keys[new[first]], self._events.shares)
            hashes, chosen = np.unique(hashed(shared), return_index=True)
            made = ~self._known.find(hashes)[1]
            hashes, chosen = hashes[made], chosen[made]
            numbers = [
                self._number(int(shared["many"][i]), int(rows[new[first[i]]]), judged, present)
                for i in chosen.tolist()
            ]
            self._known.add(hashes, shared[chosen], np.array(numbers, np.int64))
            number[new] = self._known.find(hashed(shared))[0][place.ravel()]
        return number

    def _notable(self, judged: JudgedConnections) -> NDArray[np.bool_]:
        own, whole = judged.verdicts.own, judged.verdicts.verdict
        told = (own == whole) & (own == _DENIED)
        if self._undeclared:
            told |= (own == whole) & (own == _UNDECLARED)
        told |= judged.is_missed | judged.ends.foreign
        notable: NDArray[np.bool_] = told | judged.ends.exposed
        return notable

    def _keep_known(self, present: EpochContext) -> None:
        version, forgotten = self._judging.version, self._events.table.forgotten
        of = (present.names, version, forgotten, present.exposure)
        if self._known_of != of or len(self._known) > _MOST_REMEMBERED:
            self._known, self._known_of = KnownKeys(), of

    def _number(self, many: int, row: int, judged: JudgedConnections, present: EpochContext) -> int:
        labels = self._labels(row, judged, present, many)
        if many == ANY_PORT:
            labels = with_any_port(labels)
        elif many == ANY_PEER:
            labels = with_any_peer(labels)
        return self._events.index_of(labels, int(judged.first_ns[row]), present.now_ns)

    def _labels(
        self, row: int, judged: JudgedConnections, present: EpochContext, many: int
    ) -> EventLabels:
        ends, verdicts = judged.ends, judged.verdicts
        endpoint, judgement = judged.whos[int(judged.who[row])], self._judgement(row, judged)
        local = (endpoint.namespace, endpoint.name, endpoint.workload, endpoint.workload_kind)
        if _is_spoofed(judged)[row]:
            return EventLabels(SPOOFED, DIRECTIONS[0], *local, *_ANYBODY, "", FOREIGN_SOURCE, "")
        number = int(ends.owner[row])
        owner = present.names.owners[number] if number != NO_OWNER else None
        opened_here = verdicts.opened[row] == BEGAN_HERE
        return EventLabels(
            judgement.verdict,
            DIRECTIONS[0 if opened_here else 1],
            *local,
            *(_peer(owner)),
            "" if self._is_folded(judged)[row] else _text(ends.address[row]),
            owner.scope if owner is not None else "unknown",
            protocol_name(int(ends.protocol[row])),
            port_name(int(judged.port[row])),
            judgement.policy,
            "" if many else self._reason(judged, row),
            "" if many else self._exposure(judged, row, present),
        )

    def _exposure(self, judged: JudgedConnections, row: int, present: EpochContext) -> str:
        """How it is declared that the connection may come in; "" where that is no question."""
        if judged.ends.exposed[row] or present.exposure is None:
            return UNDECLARED_EXPOSURE if judged.ends.exposed[row] else ""
        index = np.array([row])
        return exposures(judged.ends.take(index), judged.outside[index], present.exposure)[0]

    def _reason(self, judged: JudgedConnections, row: int) -> str:
        reason = self._judging.reason(judged.ends, row, judged.verdicts)
        is_foreign = judged.ends.foreign[row] and reason != FOREIGN_SOURCE
        return f"{reason}; {FOREIGN_SOURCE}" if is_foreign else reason

    def _is_folded(self, judged: JudgedConnections) -> NDArray[np.bool_]:
        """Which share their event with others whatever the peer's address. (n,)"""
        return judged.is_missed & ~self._judging.is_party(judged.ends.owner)

    def _keys(self, judged: JudgedConnections, rows: NDArray[np.int64]) -> NDArray[np.void]:
        ends, verdicts = judged.ends.take(rows), judged.verdicts
        keys = np.zeros(len(rows), KEY)
        keys["address"], keys["owner"] = ends.address, ends.owner
        keys["who"], keys["judgement"] = judged.who[rows], verdicts.judgement[rows]
        keys["side"] = verdicts.here[rows]
        keys["port"], keys["protocol"] = judged.port[rows], ends.protocol
        keys["began"], keys["foreign"] = verdicts.opened[rows], ends.foreign
        keys["address"][self._is_folded(judged)[rows]] = 0
        spoofed = np.flatnonzero(_is_spoofed(judged)[rows])
        who = keys["who"][spoofed]
        keys[spoofed] = np.zeros(1, KEY)
        keys["who"][spoofed], keys["foreign"][spoofed] = who, _SPOOFED_KEY
        return keys

    def _judgement(self, row: int, judged: JudgedConnections) -> Judgement:
        return self._judging.judgements[int(judged.verdicts.judgement[row])]


def _peer(owner: Owner | None) -> tuple[str, str, str, str]:
    if owner is None:
        return "unknown", "", "", ""
    return owner.kind, owner.namespace, owner.workload, owner.name


def _is_spoofed(judged: JudgedConnections) -> NDArray[np.bool_]:
    """Which are reported for their source's address, whatever else they are. (n,)"""
    is_spoofed: NDArray[np.bool_] = judged.ends.foreign & (judged.verdicts.own != _DENIED)
    return is_spoofed


def _text(address: NDArray[np.uint64]) -> str:
    number = int(address[0]) << 64 | int(address[1])
    parsed = IPv6Address(number)
    return str(parsed.ipv4_mapped or parsed) if number else ""

# SPDX-License-Identifier: Apache-2.0
"""Find the event of each connection that is reported: denied, undeclared, exposed, spoofed, or
unknown although policies isolate the endpoint.

The loop is over what differs in an event, of connections that have just been judged.
"""

from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.attribution.local_endpoints import LocalEndpoint
from podtally.ledger.connections.account import Judgement, port_name
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.domains.peer_domains import NO_DOMAIN, PeerDomain
from podtally.ledger.events.event_keys import ANY_PEER, ANY_PORT, KEY, KnownKeys, hashed
from podtally.ledger.events.events import (
    NO_EVENT,
    EventLabels,
    Events,
    with_any_peer,
    with_any_port,
)
from podtally.ledger.peers.peer_columns import NO_OWNER
from podtally.ledger.series.label_sets import DIRECTIONS, OTHER, protocol_name
from podtally.ledger.verdicts.exposed import UNDECLARED as UNDECLARED_EXPOSURE
from podtally.ledger.verdicts.exposed import exposures
from podtally.ledger.verdicts.judge_input import JudgeInput
from podtally.ledger.verdicts.verdicts import FOREIGN_SOURCE, ConnectionVerdicts, VerdictStage
from podtally.policy.explain.domains import strict_words
from podtally.policy.model import DENIED, UNDECLARED, VERDICTS

SPOOFED, EXPIRED = "spoofed", "expired"  # verdicts of events
_SPOOFED_KEY = 2
_MAX_REMEMBERED = 1 << 16
_DENIED, _UNDECLARED = VERDICTS.index(DENIED), VERDICTS.index(UNDECLARED)


class JudgedConnections(NamedTuple):
    """Connections that have been judged; index i of every array is the same one."""

    given: JudgeInput
    verdicts: ConnectionVerdicts
    is_undecided: NDArray[np.bool_]  # see Judgement
    from_outside: NDArray[np.bool_]  # opened from outside the cluster, to a pod
    endpoint: NDArray[np.int64]  # index in ``endpoints``
    first_ns: NDArray[np.int64]
    server_port: NDArray[np.int64]  # UNKNOWN_PORT
    endpoints: Sequence[LocalEndpoint]
    domain: NDArray[np.int32]  # index in ``domains``
    domains: Sequence[PeerDomain]


class EventMatcher:
    """``undeclared``: whether undeclared connections are reported; denied ones always are."""

    def __init__(self, events: Events, verdicts: VerdictStage, undeclared: bool) -> None:
        self._events = events
        self._verdicts = verdicts
        self._undeclared = undeclared
        self._known = KnownKeys()
        self._known_of: tuple[object, ...] = ()

    def match(self, judged: JudgedConnections, context: EpochContext) -> NDArray[np.int32]:
        """Return the events of connections; NO_EVENT for those that are not reported. (n,)"""
        found = np.full(len(judged.endpoint), NO_EVENT, np.int32)
        rows = np.flatnonzero(self._is_reported(judged))
        if not len(rows):
            return found
        self._keep_known(context)
        keys = self._keys(judged, rows)
        found[rows] = self._numbers(keys, rows, judged, context)
        ports, addresses = judged.server_port[rows], judged.given.peer_address[rows]
        self._events.observe(found[rows], ports, addresses)
        return found

    def _numbers(
        self,
        keys: NDArray[np.void],
        rows: NDArray[np.int64],
        judged: JudgedConnections,
        context: EpochContext,
    ) -> NDArray[np.int64]:
        """Return the events of keys; loop over the new ones within their endpoint's share. (n,)"""
        number, known = self._known.find(hashed(keys))
        new = np.flatnonzero(~known)
        if len(new):
            _, first, place = np.unique(hashed(keys[new]), return_index=True, return_inverse=True)
            shared = self._known.shared(keys[new[first]], self._events.shares)
            hashes, chosen = np.unique(hashed(shared), return_index=True)
            made = ~self._known.find(hashes)[1]
            hashes, chosen = hashes[made], chosen[made]
            numbers = [
                self._number(int(shared["many"][i]), int(rows[new[first[i]]]), judged, context)
                for i in chosen.tolist()
            ]
            self._known.add(hashes, shared[chosen], np.array(numbers, np.int64))
            number[new] = self._known.find(hashed(shared))[0][place.ravel()]
        return number

    def _is_reported(self, judged: JudgedConnections) -> NDArray[np.bool_]:
        columns = judged.verdicts.columns
        is_local = columns.local_verdict == columns.verdict
        reported: NDArray[np.bool_] = is_local & (columns.verdict == _DENIED)
        if self._undeclared:
            reported |= is_local & (columns.verdict == _UNDECLARED)
        reported |= _is_expired(judged)
        return reported | judged.is_undecided | judged.given.foreign | judged.given.exposed

    def _keep_known(self, context: EpochContext) -> None:
        version, forgotten = self._verdicts.version, self._events.table.forgotten
        of = (context.names, version, forgotten, context.exposure)
        if self._known_of != of or len(self._known) > _MAX_REMEMBERED:
            self._known, self._known_of = KnownKeys(), of

    def _number(self, many: int, row: int, judged: JudgedConnections, context: EpochContext) -> int:
        labels = self._labels(row, judged, context, many)
        if many == ANY_PORT:
            labels = with_any_port(labels)
        elif many == ANY_PEER:
            labels = with_any_peer(labels)
        return self._events.index_of(labels, int(judged.first_ns[row]), context.now_ns)

    def _labels(
        self, row: int, judged: JudgedConnections, context: EpochContext, many: int
    ) -> EventLabels:
        given, columns = judged.given, judged.verdicts.columns
        endpoint = judged.endpoints[int(judged.endpoint[row])].endpoint
        judgement = self._judgement(row, judged)
        number = int(given.owner[row])
        owner = context.names.owners[number] if number != NO_OWNER else None
        is_egress = columns.opened[row] == INITIATOR_ENDPOINT
        labels = EventLabels(
            verdict=judgement.verdict,
            direction=DIRECTIONS[0 if is_egress else 1],
            namespace=endpoint.namespace,
            pod=endpoint.name,
            workload=endpoint.workload,
            workload_kind=endpoint.workload_kind,
            peer_kind=owner.kind if owner else "unknown",
            peer_namespace=owner.namespace if owner else "",
            peer_workload=owner.workload if owner else "",
            peer_name=owner.name if owner else "",
            peer_address=_text(given.peer_address[row]),
            scope=owner.scope if owner else "unknown",
            protocol=protocol_name(int(given.protocol[row])),
            port=port_name(int(judged.server_port[row])),
            policy=judgement.policy,
            reason="",
            exposure="",
        )
        domain = judged.domains[max(int(judged.domain[row]), NO_DOMAIN)]
        labels = labels._replace(
            peer_domain=domain.name, domain_source=domain.source, domain_chain=domain.chain
        )
        if domain.network and not labels.peer_workload:
            labels = labels._replace(peer_workload=domain.network, peer_name=domain.network)
        if _is_spoofed(judged)[row]:
            return _spoofed(labels)
        if _is_expired(judged)[row]:
            labels = labels._replace(verdict=EXPIRED, policy=judgement.by_expired)
        if many:
            return labels
        if labels.verdict == EXPIRED:
            words = self._verdicts.expired_reason(judged.given, row, judged.verdicts)
            return labels._replace(reason=f"{words}; {strict_words(judgement.strict)}")
        exposure = self._exposure(judged, row, context)
        return labels._replace(reason=self._reason(judged, row), exposure=exposure)

    def _exposure(self, judged: JudgedConnections, row: int, context: EpochContext) -> str:
        """Return the Ingress or Service that exposes a connection's port; "" if none is needed."""
        if judged.given.exposed[row]:
            return UNDECLARED_EXPOSURE
        if context.exposure is None:
            return ""
        index = np.array([row])
        given, outside = judged.given.take(index), judged.from_outside[index]
        return exposures(given, outside, context.exposure)[0]

    def _reason(self, judged: JudgedConnections, row: int) -> str:
        reason = self._verdicts.local_reason(judged.given, row, judged.verdicts)
        is_foreign = judged.given.foreign[row] and reason != FOREIGN_SOURCE
        return f"{reason}; {FOREIGN_SOURCE}" if is_foreign else reason

    def _keys(self, judged: JudgedConnections, rows: NDArray[np.int64]) -> NDArray[np.void]:
        given, columns = judged.given.take(rows), judged.verdicts.columns
        keys = np.zeros(len(rows), KEY)
        keys["address"], keys["owner"] = given.peer_address, given.owner
        keys["endpoint"] = judged.endpoint[rows]
        keys["judgement"] = judged.verdicts.judgement[rows]
        keys["outcome"] = columns.local[rows]
        keys["port"], keys["protocol"] = judged.server_port[rows], given.protocol
        keys["domain"] = judged.domain[rows]
        keys["opened"], keys["foreign"] = columns.opened[rows], given.foreign
        spoofed = np.flatnonzero(_is_spoofed(judged)[rows])
        endpoint = keys["endpoint"][spoofed]
        keys[spoofed] = np.zeros(1, KEY)
        keys["endpoint"][spoofed], keys["foreign"][spoofed] = endpoint, _SPOOFED_KEY
        return keys

    def _judgement(self, row: int, judged: JudgedConnections) -> Judgement:
        return self._verdicts.judgements.values[int(judged.verdicts.judgement[row])]


def _is_expired(judged: JudgedConnections) -> NDArray[np.bool_]:
    """Return which connections are allowed only by an expired name. (n,)"""
    return judged.verdicts.columns.are_by_expired() & ~judged.given.foreign


def _is_spoofed(judged: JudgedConnections) -> NDArray[np.bool_]:
    """Return which connections are reported for their source address alone. (n,)"""
    local_verdict = judged.verdicts.columns.local_verdict
    is_spoofed: NDArray[np.bool_] = judged.given.foreign & (local_verdict != _DENIED)
    return is_spoofed


def _spoofed(labels: EventLabels) -> EventLabels:
    """Return the event for all that an endpoint sends from foreign addresses."""
    return labels._replace(
        verdict=SPOOFED,
        direction=DIRECTIONS[0],
        peer_kind="unknown",
        peer_namespace="",
        peer_workload="",
        peer_name="",
        peer_address="",
        peer_domain="",
        domain_source="",
        domain_chain="",
        scope="unknown",
        protocol=OTHER,
        port=OTHER,
        policy="",
        reason=FOREIGN_SOURCE,
    )


def _text(address: NDArray[np.uint64]) -> str:
    number = int(address[0]) << 64 | int(address[1])
    parsed = IPv6Address(number)
    return str(parsed.ipv4_mapped or parsed) if number else ""

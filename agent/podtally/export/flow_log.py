# SPDX-License-Identifier: Apache-2.0
"""The flow log: one JSON line for each closed connection.

Lines are written after the checkpoint: an agent that is killed between the two may lose a
line, never a count.
"""

import datetime
import ipaddress
import math
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.export.log_records import DirectionSums
from podtally.export.log_sink import json_line, sink
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections.account import Account
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT, INITIATOR_PEER
from podtally.ledger.domains.peer_domains import PeerDomain
from podtally.ledger.series.label_sets import DIRECTIONS, UNKNOWN, protocol_name
from podtally.outcomes.decision import ENDINGS, OUTCOMES, REJECTED_BY_ICMP

NAMELESS_PEER = PeerDomain("", "")
NAMELESS = Account(-1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 0, 0)
_DIRECTIONS = {INITIATOR_ENDPOINT: DIRECTIONS[0], INITIATOR_PEER: DIRECTIONS[1]}


class FlowEndpoint(msgspec.Struct, frozen=True):
    namespace: str
    pod: str
    workload: str
    interface: str
    address: str
    port: int


class FlowBackend(msgspec.Struct, frozen=True):
    """The backend of a Service, where it is known; ``port`` is the pod's, 0 if not known."""

    namespace: str
    workload: str
    port: int


class FlowPeer(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    namespace: str
    workload: str
    scope: str
    address: str
    port: int
    backend: FlowBackend | None = None  # of a Service
    domain: str = ""  # by which the endpoint found it, in full
    domain_source: str = ""
    domain_chain: str = ""  # of aliases


class FlowOutcome(NamedTuple):
    outcome: str
    ending: str
    answer_seconds: float | None
    completion_seconds: float | None
    retries: int
    icmp: str


class FlowRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line; ``direction`` is egress if the endpoint opened the connection."""

    start: datetime.datetime
    duration_seconds: float
    direction: str  # egress, ingress or unknown
    protocol: str
    endpoint: FlowEndpoint
    peer: FlowPeer
    verdict: str
    reason: str  # empty without a verdict
    bytes: DirectionSums
    packets: DirectionSums
    strict: str = ""  # the verdict where the TTLs of DNS answers are enforced, if it differs
    outcome: str = ""  # whether it worked
    ending: str = ""  # of an established one
    answer_seconds: float | None = None  # from the first packet to the first answer
    completion_seconds: float | None = None  # TCP: from that to the ACK
    retries: int = 0  # SYNs that repeat the first
    icmp: str = ""  # "type/code" of the error that rejected it
    exposure: str = ""  # of traffic from outside: the Ingress or Service, or undeclared


class FlowLog:
    """Appends to ``path``, or to standard output (``-``).

    A file that grows beyond ``max_bytes`` becomes ``path``.1.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._file = sink(str(path), max_bytes, "--flow-log")

    def write(self, ended: list[ClosedConnections], now_ns: int, now: datetime.datetime) -> int:
        """Append an epoch's closed connections and return how many; OSError if the disk is full.

        Without connections, this sends what a slow reader of standard output has not taken yet.
        ``now_ns`` (CLOCK_MONOTONIC) and ``now`` are the same instant on two clocks.
        """
        lines = [json_line(record) for each in ended for record in records(each, now_ns, now)]
        self._file.append(b"".join(lines))
        return len(lines)

    def close(self) -> None:
        self._file.close()


def records(ended: ClosedConnections, now_ns: int, now: datetime.datetime) -> list[FlowRecord]:
    """Return the lines of closed connections: the only Python loop over flows."""
    columns, key = ended.columns, ended.columns.key
    endpoints, peers = _texts(key["local_address"]), _texts(key["remote_address"])
    rows = zip(
        columns.account.tolist(),
        columns.initiator.tolist(),
        columns.first_ns.tolist(),
        columns.last_ns.tolist(),
        columns.bytes.tolist(),
        columns.packets.tolist(),
        zip(endpoints, key["local_port"].tolist(), key["ifindex"].tolist(), strict=True),
        zip(peers, key["remote_port"].tolist(), key["protocol"].tolist(), strict=True),
        ended.reasons or [""] * len(endpoints),
        ended.exposures or [""] * len(endpoints),
        _outcomes(ended),
        columns.domain.tolist(),
        strict=True,
    )
    lines = []
    for (
        account,
        initiator,
        first_ns,
        last_ns,
        bytes_,
        packets,
        here,
        there,
        reason,
        exposure,
        outcome,
        domain,
    ) in rows:
        names = ended.accounts.get(account, NAMELESS)
        lines.append(
            FlowRecord(
                start=now - datetime.timedelta(microseconds=(now_ns - first_ns) // 1000),
                duration_seconds=max(0, last_ns - first_ns) / 1e9,
                direction=_DIRECTIONS.get(initiator, UNKNOWN),
                protocol=protocol_name(there[2]),
                endpoint=_endpoint(ended, *here),
                peer=_peer(names, there[0], there[1], ended.domains.get(domain, NAMELESS_PEER)),
                verdict=names.verdict,
                reason=reason,
                bytes=DirectionSums(*bytes_),
                packets=DirectionSums(*packets),
                strict=names.judgement.strict,
                exposure=exposure,
                outcome=outcome.outcome,
                ending=outcome.ending,
                answer_seconds=outcome.answer_seconds,
                completion_seconds=outcome.completion_seconds,
                retries=outcome.retries,
                icmp=outcome.icmp,
            )
        )
    return lines


def _outcomes(ended: ClosedConnections) -> list[FlowOutcome]:
    progress = ended.columns.progress
    rows = zip(
        ended.columns.outcome.tolist(),
        ended.endings.tolist() or [0] * len(progress),
        progress["retries"].tolist(),
        progress["icmp"].tolist(),
        ended.handshake_seconds.tolist() or [(math.nan, math.nan)] * len(progress),
        strict=True,
    )
    return [
        FlowOutcome(
            OUTCOMES[outcome],
            ENDINGS[ending],
            _known(took[0]),
            _known(took[1]),
            retries,
            _icmp(outcome, icmp),
        )
        for outcome, ending, retries, icmp, took in rows
    ]


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds, 9)


def _icmp(outcome: int, icmp: int) -> str:
    return f"{icmp >> 8}/{icmp & 255}" if outcome == REJECTED_BY_ICMP else ""


def _endpoint(ended: ClosedConnections, address: str, port: int, ifindex: int) -> FlowEndpoint:
    endpoint = ended.endpoints[ifindex]
    return FlowEndpoint(
        namespace=endpoint.namespace,
        pod=endpoint.name,
        workload=endpoint.workload,
        interface=ended.interfaces[ifindex],
        address=address,
        port=port,
    )


def _peer(names: Account, address: str, port: int, domain: PeerDomain) -> FlowPeer:
    return FlowPeer(
        kind=names.peer_kind,
        namespace=names.peer_namespace,
        workload=names.peer_workload,
        scope=names.scope,
        address=address,
        port=port,
        backend=FlowBackend(*names.backend) if names.backend is not None else None,
        domain=domain.name,
        domain_source=domain.source,
        domain_chain=domain.chain,
    )


def _texts(addresses: NDArray[np.uint64]) -> list[str]:
    raw = addresses.tobytes()
    parsed = (ipaddress.IPv6Address(raw[i : i + 16]) for i in range(0, len(raw), 16))
    return [str(address.ipv4_mapped or address) for address in parsed]

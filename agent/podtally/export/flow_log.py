# SPDX-License-Identifier: Apache-2.0
"""The flow log: one JSON line for every connection that is over, in a file that rolls.

Lines follow the checkpoint: an agent that is killed between the two may leave a line
out, never a count.
"""

import datetime
import ipaddress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.export.log_sink import json_line, sink
from podtally.ledger.account import Account
from podtally.ledger.closed import ClosedConnections
from podtally.ledger.connections import BEGAN_HERE, BEGAN_THERE
from podtally.ledger.label_sets import DIRECTIONS, UNKNOWN, protocol_name

NAMELESS = Account(-1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 0, 0)
_BEGAN = {BEGAN_HERE: DIRECTIONS[0], BEGAN_THERE: DIRECTIONS[1]}


class FlowEndpoint(msgspec.Struct, frozen=True):
    namespace: str
    pod: str
    workload: str
    interface: str
    address: str
    port: int


class FlowBackend(msgspec.Struct, frozen=True):
    """Who answered for a Service, as far as that is known; ``port`` is the pod's, 0: not known."""

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


class FlowSums(msgspec.Struct, frozen=True):
    egress: int
    ingress: int


class FlowRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the flow log."""

    start: datetime.datetime
    duration_seconds: float
    direction: str  # egress: opened by the local end; ingress: by the peer; or unknown
    protocol: str
    local: FlowEndpoint
    peer: FlowPeer
    verdict: str
    reason: str  # empty where nothing was judged
    bytes: FlowSums
    packets: FlowSums
    exposure: str = ""  # of what came in: by which Ingress or Service; undeclared


class FlowLog:
    """Appends to ``path``, which beyond ``max_bytes`` becomes ``path``.1, or to standard
    output (``-``).
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._file = sink(str(path), max_bytes, "--flow-log")

    def write(self, ended: list[ClosedConnections], now_ns: int, now: datetime.datetime) -> int:
        """Append the connections of an epoch; returns how many. OSError if the disk is full.

        Without connections, what a slow reader of standard output was still owed is sent.

        ``now_ns`` (CLOCK_MONOTONIC) and ``now`` are one instant on two clocks.
        """
        lines = [json_line(record) for each in ended for record in records(each, now_ns, now)]
        self._file.append(b"".join(lines))
        return len(lines)

    def close(self) -> None:
        self._file.close()


def records(ended: ClosedConnections, now_ns: int, now: datetime.datetime) -> list[FlowRecord]:
    """Lines for connections; the one loop over flows, of those that are over."""
    columns, key = ended.columns, ended.columns.key
    local, remote = _texts(key["local_address"]), _texts(key["remote_address"])
    rows = zip(
        columns.account.tolist(),
        columns.began.tolist(),
        columns.first_ns.tolist(),
        columns.last_ns.tolist(),
        columns.bytes.tolist(),
        columns.packets.tolist(),
        zip(local, key["local_port"].tolist(), key["ifindex"].tolist(), strict=True),
        zip(remote, key["remote_port"].tolist(), key["protocol"].tolist(), strict=True),
        ended.reasons or [""] * len(local),
        ended.exposures or [""] * len(local),
        strict=True,
    )
    lines = []
    for account, began, first_ns, last_ns, count, packets, here, there, reason, exposure in rows:
        names = ended.accounts.get(account, NAMELESS)
        lines.append(
            FlowRecord(
                now - datetime.timedelta(microseconds=(now_ns - first_ns) // 1000),
                max(0, last_ns - first_ns) / 1e9,
                _BEGAN.get(began, UNKNOWN),
                protocol_name(there[2]),
                _local(ended, *here),
                _peer(names, there[0], there[1]),
                names.verdict,
                reason,
                FlowSums(*count),
                FlowSums(*packets),
                exposure,
            )
        )
    return lines


def _local(ended: ClosedConnections, address: str, port: int, ifindex: int) -> FlowEndpoint:
    endpoint = ended.endpoints[ifindex]
    return FlowEndpoint(
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        ended.interfaces[ifindex],
        address,
        port,
    )


def _peer(names: Account, address: str, port: int) -> FlowPeer:
    return FlowPeer(
        names.peer_kind,
        names.peer_namespace,
        names.peer_workload,
        names.scope,
        address,
        port,
        FlowBackend(*names.backend) if names.backend is not None else None,
    )


def _texts(addresses: NDArray[np.uint64]) -> list[str]:
    raw = addresses.tobytes()
    parsed = (ipaddress.IPv6Address(raw[i : i + 16]) for i in range(0, len(raw), 16))
    return [str(address.ipv4_mapped or address) for address in parsed]

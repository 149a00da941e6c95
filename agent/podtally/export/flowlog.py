"""The flow log: one JSON line for every connection that is over, in a file that rolls.

Lines follow the checkpoint: an agent that is killed between the two may leave a line
out, never a count.
"""

import contextlib
import datetime
import ipaddress
import os
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from podtally.errors import PodtallyError
from podtally.ledger.accounts import Account
from podtally.ledger.connections import BEGAN_HERE, BEGAN_THERE
from podtally.ledger.labels import DIRECTIONS, UNKNOWN, protocol_name
from podtally.ledger.ledger import Ended

NAMELESS = Account(-1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 0, 0)
_BEGAN = {BEGAN_HERE: DIRECTIONS[0], BEGAN_THERE: DIRECTIONS[1]}


class Local(msgspec.Struct, frozen=True):
    namespace: str
    pod: str
    workload: str
    interface: str
    address: str
    port: int


class Backend(msgspec.Struct, frozen=True):
    """Who answered for a Service, as far as that is known; ``port`` is the pod's, 0: not known."""

    namespace: str
    workload: str
    port: int


class Remote(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    namespace: str
    workload: str
    scope: str
    address: str
    port: int
    backend: Backend | None = None  # of a Service


class Sums(msgspec.Struct, frozen=True):
    egress: int
    ingress: int


class Record(msgspec.Struct, frozen=True):
    """One line; ``began`` is the direction of the connection: egress, ingress, unknown."""

    start: datetime.datetime
    duration_seconds: float
    began: str
    protocol: str
    local: Local
    remote: Remote
    bytes: Sums
    packets: Sums


class FlowLog:
    """Appends to ``path``; beyond ``max_bytes`` the file becomes ``path``.1."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()
        try:
            self._fd = self._open()
        except OSError as error:
            raise PodtallyError(
                f"cannot write the flow log {path}: {error.strerror}", "check --flow-log"
            ) from None

    def write(self, ended: list[Ended], now_ns: int, now: datetime.datetime) -> int:
        """Append the connections of an epoch; returns how many. OSError if the disk is full.

        ``now_ns`` (CLOCK_MONOTONIC) and ``now`` are one instant on two clocks.
        """
        lines = [
            self._encoder.encode(record) for each in ended for record in records(each, now_ns, now)
        ]
        if lines:
            self._append(b"\n".join(lines) + b"\n")
        return len(lines)

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, text: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if size and size + len(text) > self._max_bytes:
            with contextlib.suppress(FileNotFoundError):  # somebody else has moved it away
                os.replace(self._path, f"{self._path}.1")
            fresh = self._open()
            os.close(self._fd)
            self._fd, size = fresh, 0
        written = os.write(self._fd, text)
        if written < len(text):  # half a line would spoil the file for its readers
            os.ftruncate(self._fd, size)
            raise OSError(28, "no space for a whole batch of lines", str(self._path))

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def records(ended: Ended, now_ns: int, now: datetime.datetime) -> list[Record]:
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
        strict=True,
    )
    lines = []
    for account, began, first_ns, last_ns, count, packets, here, there in rows:
        names = ended.accounts.get(account, NAMELESS)
        endpoint = ended.endpoints[here[2]]
        lines.append(
            Record(
                now - datetime.timedelta(microseconds=(now_ns - first_ns) // 1000),
                max(0, last_ns - first_ns) / 1e9,
                _BEGAN.get(began, UNKNOWN),
                protocol_name(there[2]),
                Local(
                    endpoint.namespace,
                    endpoint.name,
                    endpoint.workload,
                    ended.interfaces[here[2]],
                    here[0],
                    here[1],
                ),
                Remote(
                    names.peer_kind,
                    names.peer_namespace,
                    names.peer_workload,
                    names.scope,
                    there[0],
                    there[1],
                    Backend(*names.backend) if names.backend is not None else None,
                ),
                Sums(*count),
                Sums(*packets),
            )
        )
    return lines


def _texts(addresses: NDArray[np.uint64]) -> list[str]:
    raw = addresses.tobytes()
    parsed = (ipaddress.IPv6Address(raw[i : i + 16]) for i in range(0, len(raw), 16))
    return [str(address.ipv4_mapped or address) for address in parsed]

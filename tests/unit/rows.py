# SPDX-License-Identifier: Apache-2.0
"""Flows as the kernel would hand them over, made of plain values."""

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity import name_table
from podtally.identity.addresses import ClaimBook
from podtally.identity.model import Claim, Endpoint
from podtally.identity.name_table import Names
from podtally.kernel import abi
from podtally.kernel.account_map import AccountReading as KernelAccounts
from podtally.kernel.table import FlowRows
from podtally.ledger.connections.connections import KEY, ConnectionColumns, flags_of
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.domains.peer_domains import NO_DOMAIN
from podtally.ledger.events.events import NO_EVENT
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import GAPS
from podtally.ledger.metrics.view import View
from podtally.ledger.series.label_sets import BookLabels
from podtally.outcomes.progress import PROGRESS

LAYOUT = abi.current()
FLAGS = flags_of(LAYOUT)
FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP, ICMP = 6, 17, 1
SECOND = 1_000_000_000

SHOP = {
    7: Endpoint("shop", "web-0", "web", "Deployment", "static"),
    9: Endpoint("shop", "db-0", "db", "StatefulSet", "static"),
}
NETWORKS = {"office": ("203.0.113.0/24",), "lab": ("2001:db8:23::/48",)}


def names(endpoints: dict[int, Endpoint] | None = None, claims: Sequence[Claim] = ()) -> Names:
    networks = name_table.build_networks(NETWORKS)
    book = ClaimBook(networks.owners)
    book.put("test", claims)
    return name_table.build_names(
        SHOP if endpoints is None else endpoints, {}, book.table(), networks
    )


def from_here(flags: int) -> int:
    """What the kernel notes of a TCP segment from the endpoint."""
    if flags & (SYN | ACK) == SYN:
        return flags | FLAGS.syn_only
    return flags | FLAGS.syn_ack if flags & SYN else flags


def to_here(flags: int) -> int:
    return from_here(flags) << FLAGS.shift


class Flow(NamedTuple):
    """One row of a half; ``bytes`` and ``packets`` are from and to the endpoint."""

    remote: str = "203.0.113.5"
    protocol: int = TCP
    local_port: int = 40123
    remote_port: int = 443
    ifindex: int = 7
    local: str = "10.99.0.7"
    first_direction: int = 0
    seen: int = 0
    bytes: tuple[int, int] = (23, 0)
    packets: tuple[int, int] = (1, 0)
    first_seen_ns: int = SECOND
    cgroup: int = 0  # of a socket of the host, on an uplink

    @property
    def fingerprint(self) -> int:
        """Fixed for a key, spread over the whole range, never 0."""
        parts = (self.remote, self.protocol, self.local_port, self.remote_port, self.ifindex)
        text = repr((*parts, self.local)).encode()
        return int.from_bytes(_spread(text), "little") or 1


def _spread(text: bytes) -> bytes:
    mixed = 0xCBF29CE484222325  # FNV-1a
    for byte in text:
        mixed = (mixed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return mixed.to_bytes(8, "little")


def words(address: str) -> NDArray[np.uint64]:
    """The two words of an address as the kernel keeps them: network order."""
    parsed = ipaddress.ip_address(address)
    whole = parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
    return np.frombuffer(whole, np.uint64)


def cold_row(flow: Flow, dtype: np.dtype[np.void] = LAYOUT.cold) -> NDArray[np.void]:
    row = np.zeros(1, dtype)
    row["local_address"], row["remote_address"] = words(flow.local), words(flow.remote)
    row["first_seen_ns"] = flow.first_seen_ns
    for name in ("ifindex", "local_port", "remote_port", "protocol", "first_direction"):
        row[name] = getattr(flow, name)
    row["cgroup_high"], row["cgroup_low"] = flow.cgroup >> 32, flow.cgroup & 0xFFFFFFFF
    return row


def key_of(flows: Sequence[Flow]) -> NDArray[np.void]:
    cold = np.concatenate([cold_row(flow) for flow in flows])
    key = np.zeros(len(cold), KEY)
    for name in KEY.names or ():
        key[name] = cold[name]
    return key


def columns(flows: Sequence[Flow], account: int = 0, now_ns: int = SECOND) -> ConnectionColumns:
    """Connections that began with these rows."""
    n = len(flows)
    return ConnectionColumns(
        np.array([flow.fingerprint for flow in flows], np.uint64),
        np.full(n, account, np.int32),
        np.full(n, NO_EVENT, np.int32),
        np.zeros(n, np.uint8),
        np.array([flow.seen for flow in flows], np.uint64),
        np.array([flow.first_seen_ns for flow in flows], np.int64),
        np.full(n, now_ns, np.int64),
        np.array([flow.bytes for flow in flows], np.int64).reshape(n, 2),
        np.array([flow.packets for flow in flows], np.int64).reshape(n, 2),
        key_of(flows),
        np.full(n, NO_DOMAIN, np.int32),
        np.zeros((n, 4), np.int64),
        np.full(n, now_ns, np.int64),
        np.zeros(n, np.uint8),
        np.zeros(n, PROGRESS),
    )


def make_ledger(series: int = 10_000, grace_ns: int = 300 * SECOND) -> Ledger:
    return Ledger(FLAGS, Limits(series, 10_000, grace_ns), keep_closed=True)


def book(
    ledger: Ledger, who: Names | EpochContext, flows: Sequence[Flow], now_ns: int = SECOND
) -> None:
    """Book rows as an epoch would, without ending it."""
    present = EpochContext(who, now_ns) if isinstance(who, Names) else who
    cold = np.concatenate([cold_row(flow) for flow in flows])
    order = np.argsort(np.array([flow.fingerprint for flow in flows], np.uint64))
    rows = FlowRows(
        np.array([flow.fingerprint for flow in flows], np.uint64)[order],
        np.array([flow.bytes for flow in flows], np.int64)[order],
        np.array([flow.packets for flow in flows], np.int64)[order],
        np.array([flow.seen for flow in flows], np.uint64)[order],
        order.astype(np.int64),
        np.zeros(len(flows), LAYOUT.handshake),
    )
    ledger.book_rows(rows, lambda place: cold[place], present)


def accounts_of(
    amounts: dict[tuple[int, int], tuple[int, int, int, int]], tagged: int = 0
) -> KernelAccounts:
    """Cumulative (other, overflow) bytes, then packets, by (ifindex, direction)."""
    listed = list(amounts)
    sums = np.array([amounts[each] for each in listed], np.int64).reshape(len(listed), 4)
    return KernelAccounts(
        np.array([ifindex for ifindex, _ in listed], np.int64),
        np.array([direction for _, direction in listed], np.int64),
        sums[:, :2],
        sums[:, 2:],
        np.full(len(listed), tagged, np.int64),
    )


def gaps(view: View) -> list[tuple[BookLabels, int]]:
    """Return the gap of each interface and direction."""
    labels, values = view[GAPS]
    return list(zip(labels, values[:, 0].tolist(), strict=True))

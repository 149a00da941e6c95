# SPDX-License-Identifier: Apache-2.0
"""Reads what the kernel counts on the watched interfaces, in the form the books need."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from podtally.attach.counters import CounterReader, LinkCounters
from podtally.ledger.interfaces.balance import Losses
from podtally.ledger.interfaces.interfaces import UNBOUNDED, UnexplainedBytes
from podtally.netlink import model
from podtally.netlink.ethtool import xdp_drops
from podtally.netlink.queues import QueueReader, Waiting
from podtally.runtime.epoch_inputs import InterfaceCounters

_NO_WAITING = Waiting(0, 0)
_MAX_XDP_READS = 16  # in an epoch


class WatchedInterface(NamedTuple):
    name: str
    role: model.Role
    mode: str  # "" until attached
    largest: int  # bytes of the largest frame
    bare: bool  # it may leave Ethernet headers out of its counters


class LastReading(NamedTuple):
    """The last state of a removed interface."""

    watched: WatchedInterface
    final: model.Counters
    frames: model.Frames
    waiting: Waiting


class InterfaceReader:
    """Reads counters and queues, each by one request."""

    def __init__(self) -> None:
        self._counters = CounterReader()
        self._queues = QueueReader()
        self._xdp_drops: dict[int, int] = {}

    def close(self) -> None:
        self._counters.close()
        self._queues.close()

    def forget(self, ifindex: int) -> Waiting:
        self._xdp_drops.pop(ifindex, None)
        return self._queues.forget(ifindex)

    def read(
        self,
        watched: Mapping[int, WatchedInterface],
        gone: Mapping[int, LastReading],
        unexplained: UnexplainedBytes,
    ) -> InterfaceCounters:
        """Return readings of ``watched`` now, and the last ones of removed interfaces."""
        waiting = self._queues.read(watched.keys(), unexplained.surplus)
        for ifindex in unexplained.missing[:_MAX_XDP_READS]:
            self._xdp_drops[ifindex] = xdp_drops(ifindex)
        now = self._counters.read()
        own = np.isin(now.ifindex, np.fromiter(watched, np.int64, len(watched)))
        now = LinkCounters(*(column[own] for column in now))
        for ifindex, drops in self._xdp_drops.items():
            now.rx_dropped[now.ifindex == ifindex] += drops
        waiting |= {i: each.waiting for i, each in gone.items()}
        interfaces = [watched[i] for i in now.ifindex.tolist()] + [
            each.watched for each in gone.values()
        ]
        return _by_endpoint(_with_last(now, gone), interfaces, waiting)


def _with_last(now: LinkCounters, last: Mapping[int, LastReading]) -> LinkCounters:
    rows = np.array(
        [(i, *_as_interface(each), *each.frames) for i, each in last.items()], np.int64
    ).reshape(-1, len(now))
    return LinkCounters(*(np.concatenate(pair) for pair in zip(now, rows.T, strict=True)))


def _as_interface(last: LastReading) -> tuple[int, int]:
    """Return bytes received and sent; UNBOUNDED where the counter is unknown."""
    first, second = (UNBOUNDED if c == model.UNKNOWN else c for c in last.final)
    return (first, second) if last.watched.role is model.Role.POD else (second, first)


def _by_endpoint(
    read: LinkCounters, watched: Sequence[WatchedInterface], waiting: Mapping[int, Waiting]
) -> InterfaceCounters:
    """Return readings as from and to the endpoint."""
    of_each = [waiting.get(i, _NO_WAITING) for i in read.ifindex.tolist()]
    dropped, queued = np.array(of_each, np.int64).reshape(-1, 2).T
    nothing = np.zeros_like(dropped)
    host = np.array([each.role is model.Role.HOST for each in watched], np.bool_)
    bare = np.array([each.bare for each in watched], np.bool_)
    largest = np.array([each.largest for each in watched], np.int64)
    received_and_sent = (
        (read.rx_bytes, read.tx_bytes),
        (read.rx_dropped, nothing),
        (nothing, read.tx_dropped + dropped),
        (read.rx_frames * bare, read.tx_frames * bare),
        (nothing, queued),
    )
    pairs = [np.stack(columns, axis=1) for columns in received_and_sent]
    counted, before, after, frames, behind_hook = (
        np.where(host[:, None], both[:, ::-1], both) for both in pairs
    )
    return InterfaceCounters(
        read.ifindex, counted, Losses(before, after, frames, behind_hook, largest)
    )

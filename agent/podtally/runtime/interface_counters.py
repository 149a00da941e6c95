# SPDX-License-Identifier: Apache-2.0
"""Readings of all that the kernel counts on the watched interfaces, as the books need them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from podtally.attach.counters import CounterReader, LinkCounters
from podtally.ledger.interfaces import UNBOUNDED, Losses
from podtally.netlink import model
from podtally.netlink.ethtool import xdp_drops
from podtally.netlink.queues import QueueReader, Waiting
from podtally.runtime.journal import InterfaceCounters

_NO_WAITING = Waiting(0, 0)
_MAX_XDP_READS = 16  # in an epoch


class Watched(NamedTuple):
    name: str
    role: model.Role
    mode: str  # "" until attached
    largest: int  # bytes of the largest frame
    pair: bool  # a veth, which may leave Ethernet headers out of its counters


class Gaps(NamedTuple):
    """What the last epoch could not explain."""

    missing: Sequence[int]  # ifindexes that counted more than was booked: XDP may be why
    surplus: bool  # more was booked than counted somewhere: a qdisc may be why


class Last(NamedTuple):
    """What is known of an interface that is gone."""

    watched: Watched
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
        self, watched: Mapping[int, Watched], gone: Mapping[int, Last], gaps: Gaps
    ) -> InterfaceCounters:
        """Read all of ``watched`` now, and add the last readings of those that went."""
        waiting = self._queues.read(watched.keys(), gaps.surplus)
        for ifindex in gaps.missing[:_MAX_XDP_READS]:
            self._xdp_drops[ifindex] = xdp_drops(ifindex)
        now = self._counters.read()
        own = np.isin(now.ifindex, np.fromiter(watched, np.int64, len(watched)))
        now = LinkCounters(*(column[own] for column in now))
        for ifindex, drops in self._xdp_drops.items():
            now.rx_dropped[now.ifindex == ifindex] += drops
        waiting |= {i: each.waiting for i, each in gone.items()}
        who = [watched[i] for i in now.ifindex.tolist()] + [each.watched for each in gone.values()]
        return _arranged(_with_last(now, gone), who, waiting)


def _with_last(now: LinkCounters, last: Mapping[int, Last]) -> LinkCounters:
    rows = np.array(
        [(i, *_as_interface(each), *each.frames) for i, each in last.items()], np.int64
    ).reshape(-1, len(now))
    return LinkCounters(*(np.concatenate(pair) for pair in zip(now, rows.T, strict=True)))


def _as_interface(last: Last) -> tuple[int, int]:
    """Return what was received and sent; nobody can tell a counter that is UNKNOWN."""
    first, second = (UNBOUNDED if c == model.UNKNOWN else c for c in last.final)
    return (first, second) if last.watched.role is model.Role.POD else (second, first)


def _arranged(
    read: LinkCounters, watched: Sequence[Watched], waiting: Mapping[int, Waiting]
) -> InterfaceCounters:
    """Turn readings to the endpoints' view."""
    of_each = [waiting.get(i, _NO_WAITING) for i in read.ifindex.tolist()]
    dropped, queued = np.array(of_each, np.int64).reshape(-1, 2).T
    nothing = np.zeros_like(dropped)
    host = np.array([each.role is model.Role.HOST for each in watched], np.bool_)
    pair = np.array([each.pair for each in watched], np.bool_)
    largest = np.array([each.largest for each in watched], np.int64)
    received_and_sent = (
        (read.rx_bytes, read.tx_bytes),
        (read.rx_dropped, nothing),
        (nothing, read.tx_dropped + dropped),
        (read.rx_frames * pair, read.tx_frames * pair),
        (nothing, queued),
    )
    pairs = [np.stack(columns, axis=1) for columns in received_and_sent]
    counted, before, after, frames, behind_hook = (
        np.where(host[:, None], both[:, ::-1], both) for both in pairs
    )
    return InterfaceCounters(
        read.ifindex, counted, Losses(before, after, frames, behind_hook, largest)
    )

# SPDX-License-Identifier: Apache-2.0
"""Reads clsact qdiscs and the filters on them; ``changes`` makes them.

Constants are those of ``linux/rtnetlink.h``, ``linux/pkt_sched.h`` and ``linux/pkt_cls.h``.
"""

import errno
import socket
import struct
import sys
from collections.abc import Container
from typing import NamedTuple

from podtally.netlink.netlink import Requests, attributes, text

CLSACT_INGRESS = 0xFFFFFFF2  # TC_H_CLSACT with TC_H_MIN_INGRESS
CLSACT_EGRESS = 0xFFFFFFF3

_GETQDISC = 38
_GETTFILTER = 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_NAME = 7
_TCA_BPF_ID = 11
_TCA_STATS2 = 7
_TCA_STATS_QUEUE = 3
_TC_H_CLSACT = 0xFFFFFFF1
_TC_H_ROOT = 0xFFFFFFFF
_QUEUE = struct.Struct("=III")  # struct gnet_stats_queue begins with qlen, backlog, drops
NO_QUEUE = ("", "noqueue", "noop")  # kinds in which nothing waits


class FilterPosition(NamedTuple):
    """Where a filter stands."""

    ifindex: int
    parent: int
    prio: int
    handle: int


class Filter(NamedTuple):
    place: FilterPosition
    kind: str
    name: str  # of a bpf filter; else ""
    prog_id: int  # 0 if none


def qdisc_kind(requests: Requests, ifindex: int) -> str:
    """Ask what sits where clsact goes: "clsact", "ingress" (which goes there too), or ""."""
    try:
        answer = requests.get(_GETQDISC, _TCMSG.pack(0, ifindex, 0, _TC_H_CLSACT, 0))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise
    return text(attributes(answer, _TCMSG.size)[_TCA_KIND])


def clsact_interfaces(requests: Requests) -> list[int]:
    """Ifindexes of all interfaces that have a clsact qdisc."""
    found = []
    for answer in requests.dump(_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
        kind = attributes(answer.body, _TCMSG.size).get(_TCA_KIND, b"")
        if text(kind) == "clsact":
            found.append(int(_TCMSG.unpack_from(answer.body)[1]))
    return found


class Queue(NamedTuple):
    """What the root qdisc of an interface says of itself and all below it.

    A classful one counts what its children drop as its own, at once or from
    qdisc_tree_reduce_backlog(); mq sums its children up when it is read.
    """

    kind: str
    handle: int
    waiting: int  # frames
    backlog: int  # bytes of those; of what is still to be cut up, with all headers
    drops: int  # frames, modulo 2^32


def root_queues(requests: Requests, ifindexes: Container[int]) -> dict[int, Queue]:
    """Return the qdiscs of these interfaces in which frames can wait, by one request."""
    found = {}
    for answer in requests.dump(_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
        _, ifindex, handle, parent, _ = _TCMSG.unpack_from(answer.body)
        if parent != _TC_H_ROOT or ifindex not in ifindexes:
            continue
        about = attributes(answer.body, _TCMSG.size)
        kind = text(about.get(_TCA_KIND, b""))
        stats = attributes(about.get(_TCA_STATS2, b"")).get(_TCA_STATS_QUEUE)
        if kind in NO_QUEUE or stats is None:
            continue
        waiting, backlog, drops = _QUEUE.unpack_from(stats)
        found[ifindex] = Queue(kind, handle, waiting, backlog, drops)
    return found


def filters(requests: Requests, ifindex: int, parent: int) -> list[Filter]:
    """List the filters on one hook, in the order in which they run."""
    request = _TCMSG.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0)
    answers = requests.dump(_GETTFILTER, request)
    found = [f for answer in answers if (f := _parse(answer.body, parent)) is not None]
    return sorted(found, key=lambda f: f.place.prio)


def _parse(body: bytes, parent: int) -> Filter | None:
    """One filter; None for the line that only says that a priority is in use."""
    _, ifindex, handle, _, info = _TCMSG.unpack_from(body)
    found = attributes(body, _TCMSG.size)
    if handle == 0 or _TCA_KIND not in found:
        return None
    place = FilterPosition(ifindex, parent, info >> 16, handle)
    kind = text(found[_TCA_KIND])
    if kind != "bpf":
        return Filter(place, kind, "", 0)
    options = attributes(found.get(_TCA_OPTIONS, b""))
    prog_id = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
    return Filter(place, kind, text(options.get(_TCA_BPF_NAME, b"")), prog_id)

"""Clsact qdiscs and filters: read by hand, changed by pyroute2; what to change is for others."""

import errno
import importlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from podtally.links.netlink import Requests, attributes, text

ADD = "add-filter"  # fails if the place is taken
REPLACE = "replace-filter"  # swaps the program at once: cls_bpf_change()

CLSACT_INGRESS = 0xFFFFFFF2  # TC_H_CLSACT with TC_H_MIN_INGRESS
CLSACT_EGRESS = 0xFFFFFFF3

_GETQDISC = 38
_GETTFILTER = 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_NAME = 7
_TCA_BPF_ID = 11
_TC_H_CLSACT = 0xFFFFFFF1


class Place(NamedTuple):
    """Where a filter stands."""

    ifindex: int
    parent: int
    prio: int
    handle: int


class Filter(NamedTuple):
    place: Place
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
    place = Place(ifindex, parent, info >> 16, handle)
    kind = text(found[_TCA_KIND])
    if kind != "bpf":
        return Filter(place, kind, "", 0)
    options = attributes(found.get(_TCA_OPTIONS, b""))
    prog_id = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
    return Filter(place, kind, text(options.get(_TCA_BPF_NAME, b"")), prog_id)


def load() -> None:
    """Import pyroute2 now: it takes 0.1 s, too long when a pod is waiting to be watched."""
    importlib.import_module("pyroute2")


def _keys(place: Place) -> dict[str, int]:
    """Spell a place in pyroute2's words."""
    ifindex, parent, prio, handle = place
    return {"index": ifindex, "parent": parent, "prio": prio, "handle": handle}


@contextmanager
def _changes(what: str) -> Iterator[Any]:
    # imported late: 25 MB of memory that a host with TCX never needs
    from pyroute2 import IPRoute  # noqa: PLC0415
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from None


def add_clsact(ifindex: int) -> None:
    with _changes("adding the clsact qdisc") as route:
        route.tc("add", "clsact", ifindex)


def delete_clsact(ifindex: int) -> None:
    with _changes("removing the clsact qdisc") as route:
        route.tc("del", "clsact", ifindex)


def put_filter(command: str, place: Place, fd: int, name: str) -> None:
    """Put the BPF program ``fd`` at a place under a name, by ADD or REPLACE."""
    with _changes(f"{command} {name}") as route:
        route.tc(command, "bpf", **_keys(place), fd=fd, name=name, direct_action=True)


def delete_filter(place: Place) -> None:
    with _changes("removing a filter") as route:
        route.tc("del-filter", "bpf", **_keys(place))

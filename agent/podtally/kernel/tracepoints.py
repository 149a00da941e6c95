# SPDX-License-Identifier: Apache-2.0
"""Attaches programs to tracepoints, if the kernel's records are as the programs read them.

A link is pinned, so that the program keeps counting while no agent runs.
"""

import ctypes
import os
import platform
import re
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from podtally.kernel import bpf

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_SYSCALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319}  # perf_event_open
_TYPE_TRACEPOINT = 2  # PERF_TYPE_TRACEPOINT
_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\d+\])?;\s*offset:(\d+);\s*size:(\d+);")

_RELEASED_SECONDS = 5.0
_ERROR = (76, 4)  # offset and size of `err`

_libc = ctypes.CDLL(None, use_errno=True)


class Tracepoint(NamedTuple):
    """``fields`` are those that the program reads: name, offset and size (``bpf/retransmit.h``)."""

    program: str
    event: str
    fields: tuple[tuple[str, int, int], ...]
    with_error: str = ""  # the program for records that say whether it was sent at all


def _fields(first: int) -> tuple[tuple[str, int, int], ...]:
    """Return the fields of both records, from the offset of the first."""
    return (
        ("sport", first, 2),
        ("dport", first + 2, 2),
        ("saddr_v6", first + 14, 16),
        ("daddr_v6", first + 30, 16),
    )


RETRANSMITS = (
    Tracepoint("retransmit_skb", "tcp/tcp_retransmit_skb", _fields(28), "retransmit_err"),
    Tracepoint("retransmit_ack", "tcp/tcp_retransmit_synack", _fields(24)),
)


class TracepointError(Exception):
    """The tracepoint cannot be used; the text says why."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


class FoundTracepoint(NamedTuple):
    """A tracepoint of this kernel, and the program that can read its records."""

    number: int
    program: str


def find(tracepoint: Tracepoint, roots: tuple[Path, ...] = TRACEFS) -> FoundTracepoint:
    """Check the format of a tracepoint's records; TracepointError."""
    root = next((each for each in roots if (each / "events").is_dir()), None)
    if root is None:
        raise TracepointError(
            f"no tracefs at {' or '.join(map(str, roots))}",
            f"mount it: mount -t tracefs tracefs {roots[0]}",
        )
    directory = root / "events" / tracepoint.event
    try:
        number = int((directory / "id").read_text())
        text = (directory / "format").read_text()
    except OSError as error:
        raise TracepointError(
            f"cannot read the tracepoint {tracepoint.event}: {error.strerror}"
        ) from None
    places = {name: (int(at), int(size)) for name, at, size in _FIELD.findall(text)}
    for name, offset, size in tracepoint.fields:
        if places.get(name) != (offset, size):
            raise TracepointError(
                f"this kernel's records of {tracepoint.event} are others than podtally reads: "
                f"no field {name} of {size} bytes at {offset}"
            )
    reads_error = tracepoint.with_error and places.get("err") == _ERROR
    return FoundTracepoint(number, tracepoint.with_error if reads_error else tracepoint.program)


def open_event(number: int) -> int:
    """Open a tracepoint for a program; TracepointError."""
    attr = ctypes.create_string_buffer(
        struct.pack("=IIQ", _TYPE_TRACEPOINT, _ATTR_SIZE, number), 64
    )
    # The program runs on every CPU, whichever one the event is for.
    fd = int(_libc.syscall(_SYSCALL.get(platform.machine(), 298), attr, -1, 0, -1, _CLOEXEC))
    if fd < 0:
        text = os.strerror(ctypes.get_errno())
        raise TracepointError(f"perf_event_open: {text}", "CAP_PERFMON, or CAP_SYS_ADMIN")
    return fd


def attach(
    tracepoint: Tracepoint,
    programs: Mapping[str, int],
    links: Path,
    roots: tuple[Path, ...] = TRACEFS,
) -> None:
    """Attach the program that fits, by a link pinned under ``links``; TracepointError.

    A link of another program is removed first: nothing is counted twice.
    """
    pin, found = links / tracepoint.program, find(tracepoint, roots)
    if found.program not in programs:
        raise TracepointError(f"this kernel does not take the program {found.program}")
    program = programs[found.program]
    try:
        if _attached(pin) == bpf.prog_info(program).id:
            return
        detach(tracepoint, links)
        with (
            bpf.owned(open_event(found.number)) as event,
            bpf.owned(_linked(program, event)) as link,
        ):
            bpf.obj_pin(link, pin)
    except OSError as error:
        raise TracepointError(
            f"cannot attach to {tracepoint.event}: {error.strerror}", "a kernel from 5.15 on"
        ) from None


def _linked(program: int, event: int) -> int:
    """Make the link; one that was just removed has the program for a moment longer."""
    end = time.monotonic() + _RELEASED_SECONDS
    while True:
        try:
            return bpf.perf_attach(program, event)
        except FileExistsError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def detach(tracepoint: Tracepoint, links: Path) -> None:
    (links / tracepoint.program).unlink(missing_ok=True)


def _attached(pin: Path) -> int:
    """Return the id of the program that a pinned link has; 0 if there is none."""
    try:
        with bpf.owned(bpf.obj_get(pin)) as link:
            return bpf.link_info(link).prog_id
    except FileNotFoundError:
        return 0

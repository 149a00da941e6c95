# SPDX-License-Identifier: Apache-2.0
"""The system call ``bpf(2)``: what podtally needs of it, and no policy.

File descriptors are plain integers here; who opens one closes it (``Fd`` helps).
Attributes are laid out as ``union bpf_attr`` in ``include/uapi/linux/bpf.h``.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}

# enum bpf_cmd
MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
PROG_LOAD = 5
OBJ_PIN = 6
OBJ_GET = 7
PROG_TEST_RUN = 10
PROG_GET_FD_BY_ID = 13
OBJ_GET_INFO_BY_FD = 15
PROG_QUERY = 16
MAP_LOOKUP_BATCH = 24
MAP_DELETE_BATCH = 27
LINK_CREATE = 28
LINK_UPDATE = 29
LINK_DETACH = 34

NOEXIST = 1  # BPF_NOEXIST: create, never overwrite
MAP_TYPE_ARRAY = 2  # enum bpf_map_type

# enum bpf_attach_type
TCX_INGRESS = 46
TCX_EGRESS = 47
PERF_EVENT = 41

# BPF_F_BEFORE without a relative program: the head of the chain
# (bpf_mprog_attach() in kernel/bpf/mprog.c)
F_BEFORE = 1 << 3

# enum bpf_link_type
LINK_TYPE_TCX = 11

_ATTR_SIZE = 144

_libc = ctypes.CDLL(None, use_errno=True)
_number = _SYSCALL.get(platform.machine(), 321)


def bpf(command: int, attr: bytearray) -> int:
    """Issue one call; raises OSError with the kernel's errno."""
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = int(_libc.syscall(_number, command, buffer, len(attr)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def make_attr(fmt: str, *values: int) -> bytearray:
    attr = bytearray(_ATTR_SIZE)
    struct.pack_into("=" + fmt, attr, 0, *values)
    return attr


def _address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)


@contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close ``fd`` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def obj_get(path: Path) -> int:
    """Open a pinned map, program or link; the error names the pin."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return bpf(OBJ_GET, make_attr("Q", ctypes.addressof(name)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def obj_pin(fd: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        bpf(OBJ_PIN, make_attr("QI", ctypes.addressof(name), fd))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class MapInfo(NamedTuple):
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    bpf(OBJ_GET_INFO_BY_FD, make_attr("IIQ", fd, size, ctypes.addressof(buffer)))
    return buffer.raw


def map_info(fd: int) -> MapInfo:
    return MapInfo(*struct.unpack_from("=6I", _info(fd, 80)))


class ProgInfo(NamedTuple):
    type: int
    id: int
    name: str
    verified: (
        int  # instructions that the verifier followed; 0: the kernel (before 5.16) does not say
    )
    misses: int = 0  # runs that the kernel skipped; of tracepoints since 6.7


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232)
    kind, number = struct.unpack_from("=II", raw)
    # struct bpf_prog_info: name behind load_time, created_by_uid, nr_map_ids, map_ids
    name = raw[64:80].split(b"\0")[0].decode(errors="replace")
    misses, verified = struct.unpack_from("=QI", raw, 208)
    return ProgInfo(kind, number, name, verified, misses)


class RunStatistics(NamedTuple):
    nanoseconds: int
    runs: int


def run_statistics(prog_fd: int) -> RunStatistics:
    """Return what a program's runs took while statistics were enabled, since it was loaded."""
    # struct bpf_prog_info: run_time_ns, run_cnt
    return RunStatistics(*struct.unpack_from("=QQ", _info(prog_fd, 208), 192))


def prog_by_id(number: int) -> int:
    return bpf(PROG_GET_FD_BY_ID, make_attr("I", number))


class LinkInfo(NamedTuple):
    type: int
    id: int
    prog_id: int
    ifindex: int  # 0 when its interface is gone
    attach_type: int


def link_info(fd: int) -> LinkInfo:
    """Facts about a TCX link; ``ifindex`` and ``attach_type`` mean nothing for others."""
    kind, number, prog, _, ifindex, attach = struct.unpack_from("=6I", _info(fd, 64))
    return LinkInfo(kind, number, prog, ifindex, attach)


def tcx_attach(prog_fd: int, ifindex: int, attach_type: int) -> int:
    """A TCX link at the head of the chain (kernel 6.6); returns the link's fd."""
    return bpf(LINK_CREATE, make_attr("IIII", prog_fd, ifindex, attach_type, F_BEFORE))


def perf_attach(prog_fd: int, event_fd: int) -> int:
    """A link of a program to a perf event (kernel 5.15); returns the link's fd."""
    return bpf(LINK_CREATE, make_attr("IIII", prog_fd, event_fd, PERF_EVENT, 0))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Put another program behind a link: each packet meets the old one or the new one."""
    bpf(LINK_UPDATE, make_attr("III", link_fd, prog_fd, 0))


def link_detach(link_fd: int) -> None:
    bpf(LINK_DETACH, make_attr("I", link_fd))


def tcx_programs(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs on a TCX hook, in the order in which they run."""
    ids = np.zeros(64, np.uint32)
    # union bpf_attr.query: target, type, flags, attach_flags, prog_ids, count
    attr = make_attr("IIIIQI", ifindex, attach_type, 0, 0, _address(ids), len(ids))
    bpf(PROG_QUERY, attr)
    return [int(i) for i in ids[: struct.unpack_from("=I", attr, 24)[0]]]


class MapSpec(NamedTuple):
    """A map to create."""

    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int = 0
    inner_fd: int = 0  # of a map of maps
    name: str = ""


def map_create(spec: MapSpec) -> int:
    # union bpf_attr: map_type, key_size, value_size, max_entries, map_flags, inner_map_fd,
    # numa_node, map_name
    attr = make_attr("7I", *spec[:6], 0)
    struct.pack_into("=16s", attr, 28, spec.name.encode())
    return bpf(MAP_CREATE, attr)


def lookup(map_fd: int, key: NDArray[np.generic], value: NDArray[np.generic]) -> None:
    """Fill ``value`` with one element; OSError ENOENT where there is none."""
    bpf(MAP_LOOKUP_ELEM, make_attr("IIQQQ", map_fd, 0, _address(key), _address(value), 0))


def update(
    map_fd: int, key: NDArray[np.generic], value: NDArray[np.generic], flags: int = 0
) -> None:
    """Write one element; a per-CPU map takes a value for every possible CPU."""
    bpf(MAP_UPDATE_ELEM, make_attr("IIQQQ", map_fd, 0, _address(key), _address(value), flags))


def delete(map_fd: int, key: NDArray[np.generic]) -> bool:
    """Remove one element; False where there was none."""
    try:
        bpf(MAP_DELETE_ELEM, make_attr("IIQ", map_fd, 0, _address(key)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def lookup_all(
    map_fd: int, key: np.dtype[np.void], value: np.dtype[np.void], cpus: int, room: int
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Read a per-CPU hash of at most ``room`` entries: keys (n,) and values (n, cpus).

    Entries are never removed during a read, so one pass is exact; the
    kernel walks bucket by bucket (``generic_map_lookup_batch()``), and ENOENT is
    its way of saying that this was the last batch.
    """
    keys = np.zeros(room, key)
    values = np.zeros((room, cpus), value)
    position = np.zeros(1, np.uint32)
    done, start = 0, 0
    while done < room:
        # union bpf_attr.batch: in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
        attr = make_attr(
            "QQQQIIQQ",
            start,
            _address(position),
            _address(keys) + done * key.itemsize,
            _address(values) + done * cpus * value.itemsize,
            room - done,
            map_fd,
            0,
            0,
        )
        try:
            bpf(MAP_LOOKUP_BATCH, attr)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            done += struct.unpack_from("=I", attr, 32)[0]
            break
        done += struct.unpack_from("=I", attr, 32)[0]
        start = _address(position)
    return keys[:done], values[:done]


def delete_all(map_fd: int, keys: NDArray[np.void]) -> None:
    """Remove elements (n,), all of which are there."""
    # union bpf_attr.batch, as above
    bpf(
        MAP_DELETE_BATCH,
        make_attr("QQQQIIQQ", 0, 0, _address(keys), 0, len(keys), map_fd, 0, 0),
    )


class Run(NamedTuple):
    retval: int
    nanoseconds: int  # of one run, on average


def test_run(prog_fd: int, packet: bytes, repeat: int = 1, context: bytes = b"") -> Run:
    """BPF_PROG_TEST_RUN: hand ``packet`` to a program; ``context`` is a ``__sk_buff``."""
    data = ctypes.create_string_buffer(packet, len(packet))
    ctx = ctypes.create_string_buffer(context, len(context)) if context else None
    attr = make_attr(
        "IIIIQQIIIIQQ",
        prog_fd,
        0,
        len(packet),
        0,
        ctypes.addressof(data),
        0,
        repeat,
        0,
        len(context),
        0,
        ctypes.addressof(ctx) if ctx is not None else 0,
        0,
    )
    bpf(PROG_TEST_RUN, attr)
    retval, duration = struct.unpack_from("=i", attr, 4)[0], struct.unpack_from("=I", attr, 36)[0]
    return Run(retval, duration)


def possible_cpus(text: str | None = None) -> int:
    """Return how many values a per-CPU element has: one per possible CPU, online or not."""
    if text is None:
        text = Path("/sys/devices/system/cpu/possible").read_text()
    return max(int(part.rpartition("-")[2]) for part in text.strip().split(",")) + 1

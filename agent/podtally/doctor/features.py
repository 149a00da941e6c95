# SPDX-License-Identifier: Apache-2.0
"""Probes of the running kernel: each tries its feature, on nothing that is in use."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from podtally.doctor import bytecode
from podtally.doctor.finding import DoctorFinding, error_text
from podtally.kernel import bpf
from podtally.kernel.tracepoints import RETRANSMITS, TracepointError, find, open_event

_NEWER = "a newer kernel is needed"
_JIT = Path("proc/sys/net/core/bpf_jit_enable")
_CLOCK = Path("sys/devices/system/clocksource/clocksource0/current_clocksource")
_SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies")


def system_call() -> DoctorFinding:
    name = "kernel programs"
    try:
        os.close(bytecode.load(bytecode.END))
    except OSError as error:
        return DoctorFinding(
            name, False, f"bpf(2) refuses a program: {error_text(error)}", _allow(error), True
        )
    return DoctorFinding(name, True, "a tc classifier can be loaded", fatal=True)


def _allow(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; in a container, "
            "seccomp must allow bpf(2); kernel lockdown must not be `confidentiality`"
        )
    return f"{_NEWER}, with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF"


def features() -> Iterator[DoctorFinding]:
    """Try the features that the kernel programs and their maps need."""
    for name, attempt, why in _FEATURES:
        try:
            attempt()
        except OSError as error:
            yield DoctorFinding(name, False, f"{why}: {error_text(error)}", _NEWER, True)
        else:
            yield DoctorFinding(name, True, why, fatal=True)


def _mmapable() -> None:
    with bpf.owned(
        bytecode.create_map(bpf.MAP_TYPE_ARRAY, mmap.PAGESIZE, bytecode.F_MMAPABLE)
    ) as fd:
        mmap.mmap(fd, mmap.PAGESIZE).close()


def _atomics() -> None:
    for operation in (bytecode.CMPXCHG, bytecode.FETCH_ADD, bytecode.FETCH_OR, bytecode.FETCH_AND):
        os.close(bytecode.load(bytecode.atomic(operation)))


def _coarse_clock() -> None:
    os.close(bytecode.load(bytecode.call(bytecode.KTIME_GET_COARSE_NS)))


def _array_of_maps() -> None:
    with (
        bpf.owned(bytecode.create_map(bpf.MAP_TYPE_ARRAY, 4)) as inner,
        bpf.owned(bytecode.create_map(bytecode.MAP_TYPE_ARRAY_OF_MAPS, 4, inner_fd=inner)) as outer,
    ):
        bpf.update(outer, np.zeros(1, np.uint32), np.array([inner], np.uint32))


def _batch() -> None:
    key, value = np.dtype([("key", np.uint32)]), np.dtype([("value", np.uint64)])
    with bpf.owned(bytecode.create_map(bytecode.MAP_TYPE_PERCPU_HASH, 8)) as fd:
        bpf.lookup_all(fd, key, value, bpf.possible_cpus(), 1)


_FEATURES: tuple[tuple[str, Callable[[], None], str], ...] = (
    ("mapped tables", _mmapable, "BPF_F_MMAPABLE arrays: reads without a system call"),
    (
        "atomics",
        _atomics,
        "compare-and-swap and fetching add, or, and: claiming a slot of the flow table",
    ),
    ("coarse clock", _coarse_clock, "bpf_ktime_get_coarse_ns(): start time of a flow"),
    ("swap fence", _array_of_maps, "ARRAY_OF_MAPS: an update waits for running programs"),
    ("batch reads", _batch, "BPF_MAP_LOOKUP_BATCH: reading the books in one call"),
)


def jit(root: Path = Path("/")) -> DoctorFinding:
    try:
        on = (root / _JIT).read_text().strip() != "0"
    except OSError:
        return DoctorFinding("jit", None, "unknown: cannot read it here")
    if on:
        return DoctorFinding("jit", True, "programs are compiled to machine code")
    fix = "sysctl -w net.core.bpf_jit_enable=1"
    return DoctorFinding("jit", False, "off: each packet costs several times as much", fix)


def clock(root: Path = Path("/")) -> DoctorFinding:
    try:
        name = (root / _CLOCK).read_text().strip()
    except OSError:
        return DoctorFinding("clock source", None, "unknown: cannot read it here")
    if name in _SLOW_CLOCKS:
        fix = "the kernel's log says why it does not use the processor's own clock"
        return DoctorFinding("clock source", False, f"{name} is slow to read", fix)
    return DoctorFinding("clock source", True, name)


def retransmits() -> DoctorFinding:
    """Check the tracepoints of TCP; without them, all but retransmissions is counted."""
    name = "retransmissions"
    try:
        for each in RETRANSMITS:
            os.close(open_event(find(each).number))
    except TracepointError as error:
        return DoctorFinding(name, None, f"not counted: {error}", error.fix)
    return DoctorFinding(name, True, "the kernel reports what TCP sends again")

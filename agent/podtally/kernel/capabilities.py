# SPDX-License-Identifier: Apache-2.0
"""Capabilities: which the agent needs and why, which it has, and giving up the rest once it runs.

A process of root regains on exec whatever its bounding set has, so that is cut as well.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from podtally.errors import PodtallyError
from podtally.kernel import bpf

FIX = "run as root, or grant it (a container's capabilities.add)"

# include/uapi/linux/capability.h, in the order of the bits
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
BIT_OF = {f"CAP_{name}": bit for bit, name in enumerate(_NAMES.split())}


class Capability(NamedTuple):
    name: str
    purpose: str
    needed: bool  # the agent does not start without it

    @property
    def bit(self) -> int:
        return BIT_OF[self.name]


CAPABILITIES = (
    Capability("CAP_BPF", "loading programs and maps", True),
    Capability("CAP_NET_ADMIN", "attaching to interfaces", True),
    Capability("CAP_PERFMON", "packet-pointer arithmetic in programs", True),
    Capability("CAP_NET_BROADCAST", "notifications of pod address changes", False),
    Capability("CAP_SYS_PTRACE", "naming pods by the processes of other users", False),
)
_INCLUDED_IN_SYS_ADMIN = ("CAP_BPF", "CAP_PERFMON")

# Needed for as long as the agent runs, since pods come and go. Only the loader needs CAP_PERFMON.
RUNNING = frozenset(
    (
        "CAP_BPF",  # pinned maps; kernels before 5.19 require it for every bpf(2)
        "CAP_NET_ADMIN",  # attaching; addresses in other namespaces; the connection tracker
        "CAP_NET_BROADCAST",  # opening a new subscription after an overrun
        "CAP_SYS_PTRACE",  # /proc/PID/ns/net of another user's process
        "CAP_DAC_READ_SEARCH",  # cgroups by handle; files of rootless runtimes in homes
    )
)
_WRITES_EVERYWHERE = "CAP_DAC_OVERRIDE"

_JOINED_SECONDS = 0.2  # Thread.join() returns a little before the kernel's thread has ended

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words a set
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_Words = _Word * 2


def missing(status: Path = Path("/proc/self/status")) -> list[Capability]:
    """Return those of CAPABILITIES that are not in effect."""
    line = next(x for x in status.read_text().splitlines() if x.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    admin = bool(effective >> BIT_OF["CAP_SYS_ADMIN"] & 1)
    return [
        each
        for each in CAPABILITIES
        if not (effective >> each.bit & 1 or (admin and each.name in _INCLUDED_IN_SYS_ADMIN))
    ]


def require(status: Path = Path("/proc/self/status")) -> None:
    """Raise PodtallyError if a needed capability is missing, or bpf(2) is refused nevertheless."""
    short = [f"{each.name} ({each.purpose})" for each in missing(status) if each.needed]
    if short:
        raise PodtallyError(f"missing {', '.join(short)}", FIX)
    try:
        os.close(bpf.map_create(bpf.MapSpec(bpf.MAP_TYPE_ARRAY, 4, 8, 1)))
    except PermissionError:
        raise PodtallyError(
            "bpf(2) is refused although the capabilities are in effect",
            "a seccomp profile or a security module forbids it: see docs/install.md",
        ) from None


def running(written: Iterable[Path]) -> frozenset[str]:
    """Return what the running agent needs to write into these directories.

    A directory of another user takes CAP_DAC_OVERRIDE.
    """
    user = os.geteuid()
    foreign = [path for path in written if os.stat(path).st_uid != user]
    return RUNNING | {_WRITES_EVERYWHERE} if foreign else RUNNING


def keep(needed: frozenset[str]) -> frozenset[str]:
    """Give up all but ``needed`` for good, also in child processes; return those in effect then.

    Capabilities belong to a thread (capabilities(7)), and threads started later inherit them: so
    every other thread must have called this before. PodtallyError otherwise; OSError if the kernel
    refuses.
    """
    allowed = sum(1 << BIT_OF[name] for name in needed)
    if threads := _threads_with_more(allowed):
        raise PodtallyError(
            f"cannot give up capabilities: {threads} other threads have them",
            "each must give them up first",
        )
    return keep_in_thread(needed)


def keep_in_thread(needed: frozenset[str]) -> frozenset[str]:
    """Give them up in the calling thread, and in those that it starts later."""
    words = _read()
    bits = sum(1 << BIT_OF[name] for name in needed)
    _cut_bounding_set(bits)
    if _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0):
        raise _error("prctl(PR_CAP_AMBIENT)")
    for half, word in enumerate(words):
        word.permitted &= bits >> 32 * half & 0xFFFFFFFF
        word.effective &= word.permitted
        word.inheritable = 0
    header = _Header(_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), words):
        raise _error("capset")
    return in_effect()


def in_effect() -> frozenset[str]:
    """Return the calling thread's effective set, without bits that have no name here."""
    low, high = _read()
    effective = low.effective | high.effective << 32
    return frozenset(name for name, bit in BIT_OF.items() if effective >> bit & 1)


def _threads_with_more(allowed: int) -> int:
    """Count other threads with more capabilities; one that was just joined gets time to end."""
    end = time.monotonic() + _JOINED_SECONDS
    while (threads := sum(map(_has_more(allowed), _others()))) and time.monotonic() < end:
        os.sched_yield()
    return threads


def _others() -> list[str]:
    own = str(threading.get_native_id())
    return [thread for thread in os.listdir("/proc/self/task") if thread != own]


def _has_more(allowed: int) -> Callable[[str], bool]:
    def has_more(thread: str) -> bool:
        try:
            status = Path(f"/proc/self/task/{thread}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return False
        permitted = next(x for x in status.splitlines() if x.startswith("CapPrm:"))
        return bool(int(permitted.split()[1], 16) & ~allowed)

    return has_more


def _read() -> "ctypes.Array[_Word]":
    header, words = _Header(_VERSION_3, 0), _Words()
    if _libc.capget(ctypes.byref(header), words):
        raise _error("capget")
    return words


def _cut_bounding_set(bits: int) -> None:
    """Drop all other bits, if CAP_SETPCAP is in effect; without it, a container's set is small."""
    if "CAP_SETPCAP" not in in_effect():
        return
    bit = 0
    while (is_set := _libc.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0)) >= 0:  # EINVAL behind the last
        if is_set and not bits >> bit & 1 and _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0):
            raise _error("prctl(PR_CAPBSET_DROP)")
        bit += 1


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")

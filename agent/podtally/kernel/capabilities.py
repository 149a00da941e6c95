# SPDX-License-Identifier: Apache-2.0
"""Gives up the capabilities that the running agent needs no more; what needs which is told here.

Since a process of root gets back on exec whatever its bounding set has, that is cut as well.
"""

import ctypes
import os
import time
from collections.abc import Iterable
from pathlib import Path

from podtally.errors import PodtallyError

# include/uapi/linux/capability.h, in the order of the bits
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
BIT_OF = {f"CAP_{name}": bit for bit, name in enumerate(_NAMES.split())}

# What goes on as long as the agent runs: new pods come all the time. CAP_PERFMON is for the
# loader, which has done its work by then.
RUNNING = frozenset(
    (
        "CAP_BPF",  # maps that are pinned; kernels before 5.19 ask it of every bpf(2)
        "CAP_NET_ADMIN",  # attaching; addresses in other namespaces; the connection tracker
        "CAP_NET_BROADCAST",  # a subscription that overran is made anew
        "CAP_SYS_PTRACE",  # /proc/PID/ns/net of another user's process
        "CAP_DAC_READ_SEARCH",  # cgroups by handle; what rootless runtimes keep in homes
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


def running(written: Iterable[Path]) -> frozenset[str]:
    """What the loop needs that writes into these directories.

    A directory of another user is written to with CAP_DAC_OVERRIDE alone.
    """
    user = os.geteuid()
    foreign = [path for path in written if os.stat(path).st_uid != user]
    return RUNNING | {_WRITES_EVERYWHERE} if foreign else RUNNING


def keep(needed: frozenset[str]) -> frozenset[str]:
    """Give up all but ``needed`` for good, and for programs started from now on; returns what
    is in effect then.

    Only for a process of one thread: capabilities are a thread's (capabilities(7)), and
    threads that it starts later have its own. PodtallyError otherwise; OSError if the
    kernel refuses.
    """
    if (threads := _threads()) != 1:
        raise PodtallyError(
            f"cannot give up capabilities: {threads} threads have them", "do it before they start"
        )
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
    """The calling thread's effective set; bits without a name here are left out."""
    low, high = _read()
    effective = low.effective | high.effective << 32
    return frozenset(name for name, bit in BIT_OF.items() if effective >> bit & 1)


def _threads() -> int:
    """How many there are; one that was just joined is given time to be gone."""
    end = time.monotonic() + _JOINED_SECONDS
    while (threads := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < end:
        time.sleep(0.001)
    return threads


def _read() -> "ctypes.Array[_Word]":
    header, words = _Header(_VERSION_3, 0), _Words()
    if _libc.capget(ctypes.byref(header), words):
        raise _error("capget")
    return words


def _cut_bounding_set(bits: int) -> None:
    """Needs CAP_SETPCAP; a container that has it not has a small set from its runtime."""
    if "CAP_SETPCAP" not in in_effect():
        return
    bit = 0
    while (there := _libc.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0)) >= 0:  # EINVAL behind the last
        if there and not bits >> bit & 1 and _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0):
            raise _error("prctl(PR_CAPBSET_DROP)")
        bit += 1


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")

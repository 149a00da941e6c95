# SPDX-License-Identifier: Apache-2.0
"""Isolate pytest workers that run in parallel."""

import ctypes
import os
import subprocess

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # linux/sched.h


def isolate() -> None:
    """Give the calling thread and its children their own network, /run, /sys and bpffs.

    Everything else is shared, processes and cgroups included: tests name their own by process id.
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for words in (
        ("mount", "--make-rprivate", "/"),
        ("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"),
        ("mkdir", "/run/netns", "/run/lock", "/run/cgroup"),
        ("mount", "--rbind", "/sys/fs/cgroup", "/run/cgroup"),
        ("mount", "-t", "sysfs", "sysfs", "/sys"),  # of this network
        ("mount", "--move", "/run/cgroup", "/sys/fs/cgroup"),
        ("mount", "-t", "bpf", "bpf", "/sys/fs/bpf"),
        ("ip", "link", "set", "lo", "up"),
    ):
        subprocess.run(words, check=True)

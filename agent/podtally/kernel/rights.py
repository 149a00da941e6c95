# SPDX-License-Identifier: Apache-2.0
"""The capabilities that podtally works with, and which of them this process has."""

import os
from pathlib import Path
from typing import NamedTuple

from podtally.errors import PodtallyError
from podtally.kernel import bpf
from podtally.kernel.capabilities import BIT_OF

MEND = "run as root, or grant it (a container's capabilities.add)"


class Capability(NamedTuple):
    name: str
    purpose: str
    needed: bool  # else only something is left out

    @property
    def bit(self) -> int:
        return BIT_OF[self.name]


CAPABILITIES = (
    Capability("CAP_BPF", "loading programs and maps", True),
    Capability("CAP_NET_ADMIN", "attaching to interfaces", True),
    Capability("CAP_PERFMON", "programs that compute with packet pointers", True),
    Capability("CAP_NET_BROADCAST", "hearing of a pod's addresses as they change", False),
    Capability("CAP_SYS_PTRACE", "naming pods by the processes of other users", False),
)
_INCLUDED_IN_SYS_ADMIN = ("CAP_BPF", "CAP_PERFMON")


def lacking(status: Path = Path("/proc/self/status")) -> list[Capability]:
    """Of CAPABILITIES, those that are not in effect."""
    line = next(x for x in status.read_text().splitlines() if x.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    admin = bool(effective >> BIT_OF["CAP_SYS_ADMIN"] & 1)
    return [
        each
        for each in CAPABILITIES
        if not (effective >> each.bit & 1 or (admin and each.name in _INCLUDED_IN_SYS_ADMIN))
    ]


def require(status: Path = Path("/proc/self/status")) -> None:
    """PodtallyError naming what is missing and without which nothing can be counted."""
    short = [f"{each.name} ({each.purpose})" for each in lacking(status) if each.needed]
    if short:
        raise PodtallyError(f"missing {', '.join(short)}", MEND)
    try:
        os.close(bpf.map_create(bpf.MAP_TYPE_ARRAY, 4, 8, 1))
    except PermissionError:
        raise PodtallyError(
            "the capabilities are there, and yet bpf(2) is refused",
            "a seccomp profile or a security module forbids it: see docs/install.md",
        ) from None

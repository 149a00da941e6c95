# SPDX-License-Identifier: Apache-2.0
"""Give processes the CPU shares that a kubelet would, so that a benchmark's own load, and what
else the machine does, take no more from the agent than pods of a node may.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CPU_V1, CPU_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
# A request of 20m is 20 shares, no request 2; larger by a factor, so that a session of something
# else on the machine, which has 1,024, weighs no more than the attack.
AGENT_SHARES, ATTACKER_SHARES = 10_240, 1_024


@contextmanager
def group(name: str, shares: int) -> Iterator[Callable[[int], None]]:
    """Give a function that moves a process into a group of its own; it does nothing where the
    kernel has no CPU controller that is free for it.
    """
    made = _group(name, shares)
    try:
        yield (lambda pid: None) if made is None else _mover(made)
    finally:
        if made is not None:
            for pid in (made / "cgroup.procs").read_text().split():
                (made.parent / "cgroup.procs").write_text(pid)
            made.rmdir()


def _mover(made: Path) -> Callable[[int], None]:
    def move(pid: int) -> None:
        (made / "cgroup.procs").write_text(str(pid))

    return move


def _group(name: str, shares: int) -> Path | None:
    is_v1 = (CPU_V1 / "cpu.shares").exists()
    made = (CPU_V1 if is_v1 else CPU_V2) / f"podtally-{name}-{os.getpid()}"
    try:
        if not is_v1:
            (CPU_V2 / "cgroup.subtree_control").write_text("+cpu")
        made.mkdir()
        file, value = ("cpu.shares", shares) if is_v1 else ("cpu.weight", shares * 100 // 1024)
        (made / file).write_text(str(value))
    except OSError:
        return None
    return made

# SPDX-License-Identifier: Apache-2.0
"""Makes and removes cgroups in all hierarchies of the machine, as a runtime does."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import deadline


def hierarchies() -> list[Path]:
    """Return where cgroups are mounted: one of v2, or all of v1 (and the v2 of a hybrid host)."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {Path(words[4]): words[words.index("-") + 1] for words in mounts}
    return sorted(path for path, kind in kinds.items() if kind in ("cgroup", "cgroup2"))


def make_cgroup(hierarchy: Path, cgroup: str) -> None:
    path = hierarchy
    for part in cgroup.strip("/").split("/"):
        path /= part
        path.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # in v1 no process enters while they are empty
            setting = path / name
            if setting.exists() and not setting.read_text().strip():
                setting.write_text((path.parent / name).read_text())


@contextmanager
def own_cgroups() -> Iterator[list[str]]:
    """Yield a list of cgroups to remove in the end, with children and new parents."""
    before = {path for hierarchy in hierarchies() for path in _shallow(hierarchy)}
    made: list[str] = []
    try:
        yield made
    finally:
        for cgroup in reversed(made):
            for hierarchy in hierarchies():
                _remove(hierarchy, hierarchy / cgroup.lstrip("/"), before)


def _shallow(hierarchy: Path) -> list[Path]:
    return [path for pattern in ("*/", "*/*/") for path in hierarchy.glob(pattern)]


def _remove(hierarchy: Path, path: Path, before: set[Path]) -> None:
    end = deadline(60)
    while path.exists() and time.monotonic() < end:  # its last processes are still ending
        for directory, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        time.sleep(0.01)
    for above in path.parents:
        if above != hierarchy and above.is_relative_to(hierarchy) and above not in before:
            with suppress(OSError):  # not ours alone
                above.rmdir()

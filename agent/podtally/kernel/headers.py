# SPDX-License-Identifier: Apache-2.0
"""Finds kernel headers for bcc; compiling is the loader's.

The programs include UAPI headers only, so the headers of any kernel serve. bcc finds
those of the running kernel by itself (``/lib/modules/RELEASE/build``, or IKHEADERS);
other trees are named to it by ``BCC_KERNEL_SOURCE``, as one directory.
"""

import os
import platform
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from podtally.errors import PodtallyError

VARIABLE = "BCC_KERNEL_SOURCE"
_KHEADERS = "sys/kernel/kheaders.tar.xz"

# The kernel's names of machines, in arch/, and Debian's, in package names.
_ARCH = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "riscv64": "riscv",
    "s390x": "s390",
}
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}


class Headers(NamedTuple):
    where: str  # for people
    build: Path | None = None  # the configured tree
    source: Path | None = None  # the rest of it, where a distribution keeps that apart
    own: bool = True  # bcc finds them by itself; build and source are None then


def find(
    root: Path = Path("/"),
    release: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Headers | None:
    """Choose what bcc would take under ``root``, else the newest other tree."""
    if VARIABLE in environ:
        return Headers(f"{environ[VARIABLE]} ({VARIABLE})")
    own = root / "lib/modules" / (release or os.uname().release) / "build"
    if own.is_dir():
        return Headers(str(own))
    if (root / _KHEADERS).exists():
        return Headers(str(root / _KHEADERS))
    trees = [tree for tree in _candidates(root) if _is_complete(tree)]
    if not trees:
        return None
    best = max(trees, key=_version)
    build = best.resolve()
    return Headers(str(best), build, _source_of(best), own=False)


@contextmanager
def prepared(headers: Headers) -> Iterator[dict[str, str]]:
    """Yield the environment variables that show ``headers`` to bcc; they hold within the block."""
    if headers.own or headers.build is None:
        yield {}
    elif headers.source is None:
        yield {VARIABLE: str(headers.build)}
    else:
        with tempfile.TemporaryDirectory(prefix="podtally-headers-") as scratch:
            arch = Path("arch") / _arch() / "include"
            for part in (Path("include"), arch):
                _merge(headers.build / part, headers.source / part, Path(scratch) / part)
            yield {VARIABLE: scratch}


def missing(root: Path = Path("/")) -> PodtallyError:
    """Make the error for a host where ``find`` found nothing; it names the package."""
    return PodtallyError("no kernel headers found", f"{fix(root)} (any kernel's headers serve)")


def fix(root: Path = Path("/")) -> str:
    """Return how headers are installed on this distribution, by ``etc/os-release``."""
    machine = platform.machine()
    family = _distribution(root)
    if "ubuntu" in family:
        return "apt-get install linux-headers-generic"
    if "debian" in family:
        return f"apt-get install linux-headers-{_DEBIAN.get(machine, machine)}"
    if family & {"rhel", "fedora", "centos"}:
        return "dnf install kernel-devel"
    return "install the distribution's package of kernel headers"


def _distribution(root: Path) -> set[str]:
    try:
        text = (root / "etc/os-release").read_text()
    except OSError:
        return set()
    fields = (line.partition("=") for line in text.splitlines())
    wanted = (value for name, _, value in fields if name in {"ID", "ID_LIKE"})
    return {word for value in wanted for part in shlex.split(value) for word in part.split()}


def _arch() -> str:
    machine = platform.machine()
    return _ARCH.get(machine, machine)


def _candidates(root: Path) -> Iterator[Path]:
    yield from (root / "lib/modules").glob("*/build")
    yield from (root / "usr/src").glob("linux-headers-*")
    yield from (root / "usr/src/kernels").glob("*")


def _is_complete(tree: Path) -> bool:
    """Say whether ``tree`` is configured, and for this machine: nothing else compiles."""
    configured = tree / "include/generated/autoconf.h"
    return configured.is_file() and (tree / "arch" / _arch() / "include").is_dir()


def _version(tree: Path) -> list[int]:
    name = tree.parent.name if tree.name == "build" else tree.name
    return [int(number) for number in re.findall(r"\d+", name)]


def _source_of(tree: Path) -> Path | None:
    """Debian keeps what all flavours share in a tree of its own, ``linux-headers-X-common``."""
    beside = tree.parent / "source"
    build = tree.resolve()
    if tree.name == "build" and beside.is_dir() and beside.resolve() != build:
        return beside.resolve()
    name = build.name
    while "-" in name:
        name = name.rpartition("-")[0]
        common = build.parent / f"{name}-common"
        if common.is_dir():
            return common
    return None


def _merge(build: Path, source: Path, into: Path) -> None:
    """One directory that shows both; where both have a file, ``build``'s is the configured one."""
    into.mkdir(parents=True)
    theirs = {entry.name: entry for entry in source.iterdir()} if source.is_dir() else {}
    for entry in build.iterdir():
        other = theirs.pop(entry.name, None)
        if other is not None and other.is_dir() and entry.is_dir():
            _merge(entry, other, into / entry.name)
        else:
            (into / entry.name).symlink_to(entry)
    for entry in theirs.values():
        (into / entry.name).symlink_to(entry)

# SPDX-License-Identifier: Apache-2.0
"""The contents of the pin directory: which programs and maps are in use, and the lock.

::

    PIN_DIR/progs/{from_pod,to_pod,from_host,to_host}   the generation in use
    PIN_DIR/maps/{control,hot,cold,handshakes,used,books,lanes,fence,
                  fence_inner,about}
    PIN_DIR/next/{progs,maps}                           its successor, while they change places
    PIN_DIR/links/                                      the attacher's

``about`` describes a generation to later agents: it is pinned last, so maps
without it are the remains of a loader that was stopped, and are removed.
"""

import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path

import msgspec
import numpy as np

from podtally.errors import PodtallyError
from podtally.kernel import abi, bpf
from podtally.kernel.sources import BPF_DIR, sources_digest

PROGRAMS = ("from_pod", "to_pod", "from_host", "to_host")
MAPS = ("control", "hot", "cold", "handshakes", "used", "books", "lanes", "fence", "fence_inner")
SECRETS = 8
BPF_FS_MAGIC = "bpf"


class Options(msgspec.Struct, frozen=True):
    """What the kernel programs are loaded with."""

    slots: int  # in each half of the table
    books: int
    dns_ports: tuple[int, ...] = ()  # beside 53


class About(msgspec.Struct, frozen=True):
    """A generation's own description, pinned beside its maps."""

    generation: str  # random: a checkpoint belongs to one generation
    digest: str
    options: Options
    secrets: tuple[int, ...]
    header: str  # the text of flow.h it was compiled with
    follows: str = ""  # the generation of the checkpoint that it continues
    maps: tuple[str, ...] = ()  # empty, as the next: of a release that had MAPS and PROGRAMS
    programs: tuple[str, ...] = ()

    @property
    def layout(self) -> abi.Layout:
        return abi.parse(self.header)


def digest(options: Options, directory: Path = BPF_DIR) -> str:
    """Changes when the programs or their maps would."""
    text = hashlib.sha256(msgspec.json.encode(options))
    text.update(sources_digest(directory).encode())
    return text.hexdigest()


def slots_for(max_flows: int) -> int:
    """Twice the flows wanted, as a power of two: probing is exact enough at half full."""
    return max(1 << (2 * max_flows - 1).bit_length(), abi.current().block_slots)


class Generation:
    """One set of programs and maps under ``root`` (PIN_DIR, or PIN_DIR/next)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.about = read_about(root / "maps" / "about")

    def map_fd(self, name: str) -> int:
        return bpf.obj_get(self.root / "maps" / name)

    @property
    def maps(self) -> tuple[str, ...]:
        """Those that it was loaded with: an older one had no lanes or handshakes."""
        if self.about.maps:
            return self.about.maps
        layout = self.about.layout
        newer = {"lanes": layout.lane, "handshakes": layout.handshake}
        return tuple(name for name in MAPS if newer.get(name, name) is not None)

    @property
    def programs(self) -> tuple[str, ...]:
        return self.about.programs or PROGRAMS

    def missing_maps(self) -> list[str]:
        return [name for name in self.maps if not (self.root / "maps" / name).exists()]

    def missing_programs(self) -> list[str]:
        return [name for name in self.programs if not (self.root / "progs" / name).exists()]

    def program_fds(self) -> dict[str, int]:
        return {name: bpf.obj_get(self.root / "progs" / name) for name in self.programs}


class PinKeeper:
    """Holds the pinned objects of a generation, to pin them again if their pins are removed."""

    def __init__(self, generation: Generation) -> None:
        root = generation.root
        paths = [root / "maps" / name for name in (*generation.maps, "about")]
        paths += [root / "progs" / name for name in generation.programs]
        self._pinned = {path: bpf.obj_get(path) for path in paths}

    def close(self) -> None:
        for fd in self._pinned.values():
            os.close(fd)

    def restore(self) -> list[Path]:
        """Pin what has vanished; returns the paths. OSError if it cannot be."""
        gone = [path for path in self._pinned if not path.exists()]
        for path in gone:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            bpf.obj_pin(self._pinned[path], path)
        return gone


def program_names(pin_dir: Path) -> dict[int, str]:
    """Return what the programs are called that are pinned there, by id, of both generations.

    Asking the kernel for a program by its id takes CAP_SYS_ADMIN.
    """
    names = {}
    for directory in (pin_dir / "progs", pin_dir / "next" / "progs"):
        for name in PROGRAMS:
            try:
                with bpf.owned(bpf.obj_get(directory / name)) as fd:
                    names[bpf.prog_info(fd).id] = name
            except FileNotFoundError:  # never there, or in the making
                continue
    return names


def read_about(path: Path) -> About:
    with bpf.owned(bpf.obj_get(path)) as fd:
        text = np.zeros(bpf.map_info(fd).value_size, np.uint8)
        bpf.lookup(fd, np.zeros(1, np.uint32), text)
    return msgspec.json.decode(text.tobytes().rstrip(b"\0"), type=About)


def write_about(path: Path, about: About) -> None:
    text = np.frombuffer(msgspec.json.encode(about), np.uint8)
    with bpf.owned(bpf.map_create(bpf.MapSpec(bpf.MAP_TYPE_ARRAY, 4, len(text), 1))) as fd:
        bpf.update(fd, np.zeros(1, np.uint32), text.copy())
        bpf.obj_pin(fd, path)


class Pins:
    """The pin directory, locked for this process for as long as the object lives."""

    def __init__(self, pin_dir: Path) -> None:
        self.root = pin_dir
        self.next = pin_dir / "next"
        self.links = pin_dir / "links"
        _require_bpffs(pin_dir)
        try:
            self.links.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise PodtallyError(
                f"cannot make the pin directory {pin_dir}: {error.strerror}",
                "run as root, with the bpffs mounted read-write",
            ) from None
        try:
            _require_own(pin_dir, self._lock)
            lock_directory(self._lock, f"the pin directory {pin_dir}", "--pin-dir")
        except PodtallyError:
            os.close(self._lock)
            raise

    def close(self) -> None:
        os.close(self._lock)

    def current(self) -> Generation | None:
        return self._generation(self.root)

    def successor(self) -> Generation | None:
        return self._generation(self.next)

    def promote(self) -> Generation:
        """Replace the generation in use by its successor, and remove the old pins.

        Stopped at any point, it can be called again.
        """
        if (self.next / "progs").is_dir():
            _remove(self.root / "progs")
            (self.next / "progs").rename(self.root / "progs")
        if (self.next / "maps").is_dir():
            _remove(self.root / "maps")
            (self.next / "maps").rename(self.root / "maps")
        _remove(self.next)
        return Generation(self.root)

    def discard_successor(self) -> None:
        _remove(self.next)

    def remove_all(self) -> None:
        """Unpin everything, and the directory itself; the kernel frees what nothing else holds."""
        for name in ("next", "progs", "maps", "links"):
            _remove(self.root / name)
        self.root.rmdir()

    def _generation(self, root: Path) -> Generation | None:
        try:
            return Generation(root)
        except FileNotFoundError:
            return None


def lock_directory(fd: int, what: str, flag: str) -> None:
    """Lock an open directory for as long as it is open; PodtallyError if another has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PodtallyError(
            f"{what} is in use by another podtally",
            f"stop that one, or choose another with {flag}",
        ) from None


def _require_own(path: Path, fd: int) -> None:
    """Refuse a directory that others can write to: they could replace maps and programs."""
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise PodtallyError(
            f"the pin directory {path} belongs to another user (uid {found.st_uid})",
            "remove it, or choose another with --pin-dir",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PodtallyError(
            f"other users can write to the pin directory {path}", f"chmod go-w {path}"
        )


def _remove(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)


def _require_bpffs(path: Path) -> None:
    """The nearest directory that exists must be on a bpffs: nothing else can hold pins."""
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if filesystem_of(nearest) != BPF_FS_MAGIC:
        raise PodtallyError(
            f"{path} is not on a bpffs, which alone can hold pinned maps",
            "mount it: mount -t bpf bpf /sys/fs/bpf",
        )


def filesystem_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that ``path`` is on; the last mount wins, as in the kernel."""
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in mounts.read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind

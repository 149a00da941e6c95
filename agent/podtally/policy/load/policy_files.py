# SPDX-License-Identifier: Apache-2.0
"""Policies in files and folders, reloaded when they change.

While an object is unreadable, its last good version stays in force and the file is reported as
stale. Without one, stand-ins put in doubt what the readable part selects, and nothing else: a
stray file is not a policy. A file removed from a folder is withdrawn; a configured path that is
missing puts everything in doubt.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from podtally.policy.load.documents import MAX_BYTES
from podtally.policy.load.last_good import with_last_good
from podtally.policy.load.parser import ParsedPolicies, merged, read_text
from podtally.policy.load.stand_ins import all_unreadable, empty_stand_in
from podtally.policy.model import Policy
from podtally.policy.problems import ERROR, Problem

SUFFIXES = (".json", ".yaml", ".yml")  # of files in folders, as kubectl's
_SETTLED_NS = 2_000_000_000  # a file this old cannot change again within the same time stamp


class FileStamp(NamedTuple):
    """File metadata; a changed file has another stamp."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class PolicyFile(NamedTuple):
    """A file as last read."""

    stamp: FileStamp | None  # None: read it again
    digest: bytes
    parsed: ParsedPolicies  # what is in force of it
    problems: tuple[Problem, ...]  # of its latest version
    stale: bool  # in force is an earlier version than that of the problems


class LoadedFiles(NamedTuple):
    """The policies of all files."""

    parsed: ParsedPolicies
    stale: tuple[str, ...]  # files that are in force in an earlier version
    changed: bool  # since the previous load
    by_file: Mapping[str, ParsedPolicies] = {}  # what is in force of each


class PolicyFiles:
    """A set of files and folders to ``load`` repeatedly. Not thread-safe.

    ``kept`` are the last good versions that an earlier agent had, by file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        candidate: bool = False,
        kept: Mapping[str, ParsedPolicies] | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._candidate = candidate
        self._files = {
            name: PolicyFile(None, b"", parsed, (), False) for name, parsed in (kept or {}).items()
        }
        self._loaded: LoadedFiles | None = None

    def load(self) -> LoadedFiles:
        """Load what has changed; a file without a change costs one ``stat``."""
        files: dict[str, PolicyFile] = {}
        for path in self._paths:
            for name, unread in self._found(path):
                if name not in files:
                    files[name] = self._read(name) if unread is None else self._lost(name, unread)
        before, self._files = self._files, files
        changed = self._loaded is None or _contents(before) != _contents(files)
        if changed or self._loaded is None:
            by_file = {name: file.parsed for name, file in files.items()}
            self._loaded = LoadedFiles(_united(files), _stale(files), True, by_file)
        else:
            self._loaded = self._loaded._replace(changed=False)
        return self._loaded

    def _found(self, path: Path) -> Iterator[tuple[str, str | None]]:
        """Yield file names, each with the problem if any; known files of a broken folder stay."""
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                yield str(path), None
                return
        except OSError as error:
            yield from self._known(path, error)
            return
        errors: list[OSError] = []
        for folder, folders, names in os.walk(path, onerror=errors.append):
            # A mounted ConfigMap has its versions in hidden folders, and links to the current one.
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.endswith(SUFFIXES) and not name.startswith("."):
                    yield os.path.join(folder, name), None
        for failed in errors:
            yield from self._known(Path(str(failed.filename)), failed)

    def _known(self, path: Path, error: OSError) -> Iterator[tuple[str, str | None]]:
        why = f"cannot be read: {error.strerror}; check the path and its permissions"
        within = os.path.join(str(path), "")
        known = [name for name in self._files if name == str(path) or name.startswith(within)]
        for name in known or [str(path)]:
            yield name, why

    def _read(self, name: str) -> PolicyFile:
        before = self._files.get(name)
        try:
            stamp, text = _content(name, before.stamp if before else None)
        except OSError as error:
            return self._lost(name, f"cannot be read: {error.strerror}; check its permissions")
        if text is None and before is not None:
            return before
        digest = hashlib.blake2b(text or b"").digest()
        if before is not None and before.digest == digest:
            return before._replace(stamp=stamp)
        reading = read_text(text or b"", name, self._candidate)
        good, stale = reading, False
        if before is not None:
            good, stale = with_last_good(before.parsed, reading)
        return PolicyFile(stamp, digest, good, reading.problems, stale)

    def _lost(self, name: str, why: str) -> PolicyFile:
        before = self._files.get(name)
        problem = Problem(name, 0, "", "", why, ERROR)
        if before is not None and _has_objects(before.parsed):
            return PolicyFile(None, b"", before.parsed, (problem,), True)
        named = any(name == str(path) for path in self._paths)
        policies: tuple[Policy, ...] = (empty_stand_in(problem, self._candidate),)
        if named:
            policies = all_unreadable(problem, self._candidate)
        reading = ParsedPolicies(policies, problems=(problem,), lost=(problem,))
        return PolicyFile(None, b"", reading, (problem,), False)


def _content(name: str, known: FileStamp | None) -> tuple[FileStamp | None, bytes | None]:
    """Return stamp and text, read from one descriptor; no text if the stamp is the known one."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "not a regular file")
        stamp = FileStamp(
            info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        )
        if stamp == known:
            return stamp, None
        text = file.read(MAX_BYTES + 1)
    settled = time.time_ns() - max(stamp.modified_ns, stamp.changed_ns) > _SETTLED_NS
    return stamp if settled else None, text


def _has_objects(reading: ParsedPolicies) -> bool:
    return bool(reading.ingresses) or any(not policy.unreadable for policy in reading.policies)


def _contents(files: dict[str, PolicyFile]) -> dict[str, tuple[bytes, tuple[Problem, ...], bool]]:
    return {name: (file.digest, file.problems, file.stale) for name, file in files.items()}


def _stale(files: dict[str, PolicyFile]) -> tuple[str, ...]:
    return tuple(name for name, file in files.items() if file.stale)


def _united(files: dict[str, PolicyFile]) -> ParsedPolicies:
    return merged(file.parsed._replace(problems=file.problems) for file in files.values())

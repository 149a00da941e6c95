# SPDX-License-Identifier: Apache-2.0
"""Appends lines to a log: a file that rolls, or standard output.

An OSError means that nothing of the given text is in the log.
"""

import contextlib
import errno
import json
import os
import select
import stat
import sys
import time
from pathlib import Path

import msgspec

from podtally.config import STANDARD_OUTPUT
from podtally.errors import PodtallyError

# The longest that an epoch waits for the reader of standard output.
MAX_WAIT_SECONDS = 0.1

_ENCODER = msgspec.json.Encoder()


class RollingFile:
    """Appends to ``path``; beyond ``max_bytes`` the file becomes ``path``.1.

    ``flag`` is the one that names the path. A file that was moved away is created again.
    """

    def __init__(self, path: Path, max_bytes: int, flag: str = "--flow-log") -> None:
        self._path = path
        self._max_bytes = max_bytes
        try:
            self._fd = self._open()
        except OSError as error:
            log = flag.lstrip("-").replace("-", " ")
            raise PodtallyError(
                f"cannot write the {log} {path}: {error.strerror}", f"check {flag}"
            ) from None

    def append(self, text: bytes) -> None:
        """Append ``text``, which ends with a newline; OSError: nothing is appended."""
        if not text:
            return
        if not self._in_place():
            self._reopen()
        size = os.fstat(self._fd).st_size
        if size and size + len(text) > self._max_bytes:
            os.replace(self._path, f"{self._path}.1")
            self._reopen()
            size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            text = b"\n" + text  # terminate the partial line of an agent that was killed
        _write_whole(self._fd, text)

    def close(self) -> None:
        os.close(self._fd)

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags | os.O_NOFOLLOW, 0o640)
        except OSError as error:
            if error.errno == errno.ELOOP:
                words = "it is a symbolic link, which is not followed"
                raise OSError(errno.ELOOP, words, str(self._path)) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # it can neither roll nor be truncated
            os.close(fd)
            raise OSError(errno.EINVAL, "it is not a regular file", str(self._path))
        return fd


class Stream:
    """Writes to an inherited descriptor: a pipe, a socket, a terminal, a file.

    It may be shared with other writers, so it is polled, not made non-blocking. What a slow
    reader has not taken of a batch is sent before the next one.
    """

    def __init__(self, fd: int) -> None:
        """Take over ``fd``, which is closed with the stream."""
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._ready = select.poll()
        self._ready.register(fd, select.POLLOUT)
        self._rest = b""

    def append(self, text: bytes) -> None:
        """Send ``text``, or queue it; OSError: nothing of it is sent or queued."""
        if self._is_file:
            _write_whole(self._fd, text)
            return
        self._send_rest()
        if not text:
            return
        if self._rest:
            raise _is_full()
        self._rest = text
        try:
            self._send()
        except OSError:
            if self._rest is text:
                self._rest = b""
                raise
        if self._rest is text:
            self._rest = b""
            raise _is_full()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._send()
        os.close(self._fd)

    def _send_rest(self) -> None:
        try:
            self._send()
        except OSError:
            self._rest = b""  # the reader is gone
            raise

    def _send(self) -> None:
        until = time.monotonic() + MAX_WAIT_SECONDS
        while self._rest and self._ready.poll(max(0.0, until - time.monotonic()) * 1000):
            try:
                written = os.write(self._fd, _piece(self._rest))
            except BlockingIOError:  # another process made it non-blocking, and filled it
                return
            self._rest = self._rest[written:]


def sink(path: str, max_bytes: int, flag: str) -> "RollingFile | Stream":
    """Return the sink of a file, or of standard output if ``path`` is ``-``."""
    if path == STANDARD_OUTPUT:
        return standard_output()
    return RollingFile(Path(path), max_bytes, flag)


def require_writable(path: str, max_bytes: int, flag: str) -> None:
    """Raise PodtallyError if a log cannot be written."""
    sink(path, max_bytes, flag).close()


def standard_output() -> Stream:
    if sys.__stdout__ is None:  # descriptor 1 was closed, and may be another file by now
        raise PodtallyError(
            "standard output is closed", "set a file, or leave standard output open"
        )
    return Stream(os.dup(sys.__stdout__.fileno()))


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON, whatever its strings contain."""
    try:
        return _ENCODER.encode(value) + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, as from a file name that is not UTF-8
        plain = msgspec.to_builtins(value)
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def _write_whole(fd: int, text: bytes) -> None:
    """Write all of ``text`` at the end of a file, or leave the file as it was."""
    size, written = os.fstat(fd).st_size, 0
    try:
        while written < len(text):
            written += os.write(fd, text[written:])
    except OSError:
        os.ftruncate(fd, size)
        os.lseek(fd, -written, os.SEEK_CUR)  # for one that is not open for appending
        raise


def _piece(text: bytes) -> bytes:
    """Return as many lines as one atomic write takes; a longer line is split.

    pipe(7): writes of up to PIPE_BUF bytes are atomic, and do not block on a pipe that is ready.
    """
    return text[: text.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF]


def _is_full() -> OSError:
    return BlockingIOError(
        errno.EAGAIN, "the pipe is full and is not being read", "standard output"
    )

# SPDX-License-Identifier: Apache-2.0
"""Probes of what surrounds the kernel: rights, file systems, headers, the compiler."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from podtally.doctor.finding import DoctorFinding, error_text
from podtally.kernel import headers
from podtally.kernel.capabilities import CAPABILITIES, FIX, missing
from podtally.kernel.pins import BPF_FS_MAGIC, filesystem_of
from podtally.runtimes.cgroup_ids import CgroupIds, find_mount

_IMPORT_BCC = "from podtally.kernel.builder import import_bcc; print(import_bcc().__file__)"
_IMPORT_SECONDS = 60

# Two checkpoints of a full table.
_STATE_ROOM_BYTES = 32 << 20


def capabilities(status: Path = Path("/proc/self/status")) -> Iterator[DoctorFinding]:
    absent = missing(status)
    for each in CAPABILITIES:
        ok = each not in absent
        yield DoctorFinding(each.name, ok, each.purpose, "" if ok else FIX, each.needed)


def bpffs(pin_dir: Path) -> DoctorFinding:
    """Check the file system of the nearest existing directory: pins need a bpffs."""
    kind = filesystem_of(nearest(pin_dir))
    if kind == BPF_FS_MAGIC:
        return DoctorFinding("bpffs", True, f"{pin_dir} is on a bpffs", fatal=True)
    detail = f"{pin_dir} is on {kind or 'no file system'}, which cannot hold pins"
    return DoctorFinding("bpffs", False, detail, "mount -t bpf bpf /sys/fs/bpf", fatal=True)


def pin_lock(pin_dir: Path) -> DoctorFinding:
    """Check whether an agent holds the pin directory; this takes its lock for microseconds."""
    name = "pin directory"
    try:
        fd = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return DoctorFinding(name, True, f"{pin_dir}: created when podtally first runs")
    except OSError as error:
        return DoctorFinding(name, None, f"{pin_dir}: {error_text(error)}", "run as root")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        fix = "a second agent needs its own --pin-dir"
        return DoctorFinding(name, None, f"{pin_dir}: in use by an agent", fix)
    finally:
        os.close(fd)
    return DoctorFinding(name, True, f"{pin_dir}: not in use")


def compiler() -> Iterator[DoctorFinding]:
    """Check what only `--compile` needs."""
    found = headers.find()
    if found is None:
        detail = "none on this host, and --compile needs them"
        yield DoctorFinding("kernel headers", False, detail, headers.fix(), fatal=True)
    else:
        yield DoctorFinding("kernel headers", True, found.where, fatal=True)
    yield _bcc()


def _bcc() -> DoctorFinding:
    """Import bcc as the builder would, in a separate process: LLVM is large."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _IMPORT_BCC],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return DoctorFinding("bcc", None, f"import took longer than {_IMPORT_SECONDS} s")
    if child.returncode:
        message = (child.stderr.strip().splitlines() or ["no message"])[-1]
        fix = f"start without --compile, or apt-get install python3-bpfcc for {sys.executable}"
        return DoctorFinding("bcc", False, message, fix, fatal=True)
    return DoctorFinding("bcc", True, child.stdout.strip(), fatal=True)


def cgroup_v2(mountinfo: Path = Path("/proc/self/mountinfo")) -> DoctorFinding:
    mount = find_mount(mountinfo)
    if mount is None:
        detail = "not mounted: host processes cannot be named"
        return DoctorFinding("cgroup v2", False, detail, "mount -t cgroup2 none /sys/fs/cgroup")
    ids = CgroupIds(mount)
    ids.close()
    if ids.is_whole:
        return DoctorFinding("cgroup v2", True, f"mounted at {mount.path}")
    detail = f"{mount.path} shows only a part of it: host processes are unknown"
    return DoctorFinding(
        "cgroup v2", None, detail, "mount the host's cgroup2, or run in the host's cgroup namespace"
    )


def state_dir(path: Path) -> DoctorFinding:
    """Check the space for a new checkpoint beside the previous one."""
    there = nearest(path)
    if not os.access(there, os.W_OK | os.X_OK):
        fix = "run as root, or choose another directory with --state-dir"
        return DoctorFinding("state directory", False, f"{there} is not writable", fix, fatal=True)
    space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    detail = f"{path} on {filesystem_of(there)}, {free >> 20} MiB free"
    if free < _STATE_ROOM_BYTES:
        fix = f"free some space: a checkpoint may need {_STATE_ROOM_BYTES >> 20} MiB"
        return DoctorFinding("state directory", False, detail, fix)
    return DoctorFinding("state directory", True, detail)


def nearest(path: Path) -> Path:
    """Return the deepest existing directory of ``path``."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

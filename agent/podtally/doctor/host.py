"""Probes of what surrounds the kernel: rights, file systems, headers, the compiler."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from podtally.doctor.finding import Finding, words
from podtally.identity.cgroup_ids import CgroupIds, find_mount
from podtally.kernel import headers, rights
from podtally.kernel.pins import BPF_FS_MAGIC, filesystem_of

_IMPORT_BCC = "from podtally.kernel.loader import import_bcc; print(import_bcc().__file__)"
_IMPORT_SECONDS = 60

# A checkpoint of a full table and its successor beside it.
_STATE_ROOM_BYTES = 32 << 20


def capabilities(status: Path = Path("/proc/self/status")) -> Iterator[Finding]:
    lacking = rights.lacking(status)
    for each in rights.CAPABILITIES:
        ok = each not in lacking
        yield Finding(each.name, ok, each.purpose, "" if ok else rights.MEND, each.needed)


def bpffs(pin_dir: Path) -> Finding:
    """Pins need a bpffs; what counts is the nearest directory that exists."""
    kind = filesystem_of(nearest(pin_dir))
    if kind == BPF_FS_MAGIC:
        return Finding("bpffs", True, f"{pin_dir} is on one", fatal=True)
    detail = f"{pin_dir} is on {kind or 'no file system'}, which cannot hold pins"
    return Finding("bpffs", False, detail, "mount -t bpf bpf /sys/fs/bpf", fatal=True)


def pin_lock(pin_dir: Path) -> Finding:
    """Say whether an agent holds the pin directory; asking takes the lock for microseconds."""
    name = "pin directory"
    try:
        fd = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return Finding(name, True, f"{pin_dir} is made when podtally first runs")
    except OSError as error:
        return Finding(name, None, f"{pin_dir}: {words(error)}", "run as root")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        mend = "a second agent needs a --pin-dir of its own"
        return Finding(name, None, f"{pin_dir}: an agent runs with it", mend)
    finally:
        os.close(fd)
    return Finding(name, True, f"{pin_dir}: no agent runs with it")


def kernel_headers() -> Finding:
    found = headers.find()
    if found is None:
        return Finding("kernel headers", False, "none on this host", headers.mend(), fatal=True)
    return Finding("kernel headers", True, found.where, fatal=True)


def bcc() -> Finding:
    """Import bcc as the loader would, in a process of its own: LLVM is large."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _IMPORT_BCC],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("bcc", None, f"importing it took longer than {_IMPORT_SECONDS} s")
    if child.returncode:
        said = (child.stderr.strip().splitlines() or ["no word why"])[-1]
        mend = f"apt-get install python3-bpfcc, for the interpreter {sys.executable}"
        return Finding("bcc", False, said, mend, fatal=True)
    return Finding("bcc", True, child.stdout.strip(), fatal=True)


def cgroup_v2(mountinfo: Path = Path("/proc/self/mountinfo")) -> Finding:
    mount = find_mount(mountinfo)
    if mount is None:
        detail = "not mounted: host processes have no names of their own"
        return Finding("cgroup v2", False, detail, "mount -t cgroup2 none /sys/fs/cgroup")
    ids = CgroupIds(mount)
    ids.close()
    if ids.is_whole:
        return Finding("cgroup v2", True, f"mounted at {mount.path}")
    detail = f"{mount.path} shows a part of it only: host processes are unknown"
    return Finding("cgroup v2", None, detail, "mount the host's, or run in its cgroup namespace")


def state_dir(path: Path) -> Finding:
    """See whether a checkpoint fits beside its predecessor, which it then replaces."""
    there = nearest(path)
    if not os.access(there, os.W_OK | os.X_OK):
        mend = "run as root, or choose another with --state-dir"
        return Finding("state directory", False, f"{there} is not writable", mend, fatal=True)
    space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    detail = f"{path} on {filesystem_of(there)}, {free >> 20} MiB free"
    if free < _STATE_ROOM_BYTES:
        mend = f"make room: a checkpoint may need {_STATE_ROOM_BYTES >> 20} MiB"
        return Finding("state directory", False, detail, mend)
    return Finding("state directory", True, detail)


def nearest(path: Path) -> Path:
    """Find the deepest directory of ``path`` that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

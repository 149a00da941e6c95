# SPDX-License-Identifier: Apache-2.0
"""Probes of the tc hooks, on the loopback of a temporary network namespace.

Run as a module it is the child process that creates the namespace; the host's own interfaces
are never touched.
"""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from podtally.attach.attacher import Attacher
from podtally.doctor import bytecode
from podtally.doctor.finding import DoctorFinding, error_text
from podtally.kernel import bpf
from podtally.netlink.links import LOOPBACK_IFINDEX, get_link
from podtally.netlink.model import PROGRAMS, Mode, Role
from podtally.netlink.netlink import Requests

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_SECONDS = 30
_NO_PINS = Path("/nonexistent")  # filters are not pinned

_FIXES = {
    "tcx": "no fix needed: clsact works as well; TCX needs kernel 6.6 (CONFIG_NET_XGRESS)",
    "clsact": "modprobe sch_ingress cls_bpf (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)",
}


def hooks() -> list[DoctorFinding]:
    """Probe TCX and clsact; podtally needs one of them."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [DoctorFinding("hooks", None, f"not probed within {_SECONDS} s")]
    if child.returncode:
        message = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return [DoctorFinding("hooks", None, f"not probed: {message}", "run as root")]
    return findings(json.loads(child.stdout))


def findings(refusals: dict[str, str]) -> list[DoctorFinding]:
    """Return the findings: ``refusals`` has the error of each kind of hook, "" if it works."""
    none_works = all(refusals.values())
    return [
        DoctorFinding(
            name,
            not why,
            why or "a program can be attached",
            _FIXES[name] if why else "",
            fatal=none_works,
        )
        for name, why in refusals.items()
    ]


def _refusal(attempt: Callable[[int], None], program: int) -> str:
    try:
        attempt(program)
    except OSError as error:
        return error_text(error)
    return ""


def _tcx(program: int) -> None:
    os.close(bpf.tcx_attach(program, LOOPBACK_IFINDEX, bpf.TCX_INGRESS))


def _clsact(program: int) -> None:
    requests = Requests()
    loopback = get_link(requests, LOOPBACK_IFINDEX)
    requests.close()
    if loopback is None:
        raise OSError(errno.ENODEV, "a new namespace has no loopback")
    attacher = Attacher(_NO_PINS, dict.fromkeys(PROGRAMS.values(), program), Mode.CLSACT)
    attacher.attach(loopback, Role.POD)
    attacher.close()


def _unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot create a network namespace: {os.strerror(code)}")


def main() -> int:
    try:
        _unshare()
        with bpf.owned(bytecode.load(bytecode.END)) as program:
            refusals = {"tcx": _refusal(_tcx, program), "clsact": _refusal(_clsact, program)}
    except OSError as error:
        print(error_text(error), file=sys.stderr)
        return 1
    print(json.dumps(refusals))
    return 0


if __name__ == "__main__":
    sys.exit(main())

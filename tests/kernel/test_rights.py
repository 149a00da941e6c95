# SPDX-License-Identifier: Apache-2.0
"""A host that has the capabilities, and yet forbids what they are for."""

import platform
import subprocess
import sys

import pytest

# A seccomp filter (seccomp(2)) that answers bpf(2) with EPERM, as runtimes' profiles do.
_FORBIDDEN = """
import ctypes, struct
SYS_BPF, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 321, 38, 22, 2
LD_NR, JEQ, RET, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
lines = ((LD_NR, 0, 0, 0), (JEQ, 0, 1, SYS_BPF), (RET, 0, 0, REFUSE), (RET, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in lines))
program = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0
"""
_REQUIRE = """
from podtally.errors import PodtallyError
from podtally.kernel import rights
try:
    rights.require()
except PodtallyError as error:
    print(error)
else:
    print("fine")
"""


def said(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of bpf(2) is x86-64's")
def test_a_seccomp_profile_is_named() -> None:
    assert said(_REQUIRE) == "fine\n"
    words = said(_FORBIDDEN + _REQUIRE)
    assert "bpf(2) is refused" in words
    assert "seccomp" in words

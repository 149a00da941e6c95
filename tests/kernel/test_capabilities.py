# SPDX-License-Identifier: Apache-2.0
"""Giving up capabilities in real processes, and requiring them where seccomp refuses bpf(2)."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from podtally.kernel.capabilities import BIT_OF, CAPABILITIES, RUNNING, in_effect, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SOURCES = Path(__file__).parents[2] / "agent"


def python(text: str, *before: str) -> str:
    """Run a program in a process of its own; returns what it prints."""
    done = subprocess.run(
        [*before, sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(SOURCES), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


KEEP = """
import os, socket, subprocess, threading
from pathlib import Path
from podtally.errors import PodtallyError
from podtally.kernel import capabilities
def words(path="/proc/thread-self/status"):
    lines = Path(path).read_text().splitlines()
    return {x[:6]: int(x[7:], 16) for x in lines if x.startswith("Cap")}
"""


def bits(names: frozenset[str] | set[str]) -> int:
    return sum(1 << BIT_OF[name] for name in names)


def test_names_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("no linux/capability.h")
    result = {
        words[1]: int(words[2])
        for words in map(str.split, header.read_text().splitlines())
        if len(words) == 3 and words[1].startswith("CAP_") and words[2].isdecimal()
    }
    assert result == BIT_OF
    assert {each.name: each.bit for each in CAPABILITIES}.items() <= result.items()


def test_only_what_is_needed_is_left_in_every_set() -> None:
    out = python(KEEP + "print(sorted(capabilities.keep(capabilities.RUNNING)), words())")
    sets = eval(out.partition("]")[2])
    assert eval(out.partition("]")[0] + "]") == sorted(RUNNING)
    want = bits(RUNNING)
    assert sets == {"CapInh": 0, "CapPrm": want, "CapEff": want, "CapBnd": want, "CapAmb": 0}


def test_what_is_lacking_is_not_given() -> None:
    out = python(
        KEEP + "print(sorted(capabilities.keep(capabilities.RUNNING)))",
        *("setpriv", "--bounding-set", "-all,+bpf,+net_admin,+perfmon"),
    )
    assert eval(out) == ["CAP_BPF", "CAP_NET_ADMIN"]


def test_a_thread_started_later_and_a_program_have_no_more() -> None:
    out = python(
        KEEP
        + """
capabilities.keep(frozenset({"CAP_NET_ADMIN"}))
thread = threading.Thread(target=lambda: print(words()["CapEff"]))
thread.start()
thread.join()
print(int(subprocess.check_output(["sed", "-n", "s/CapEff://p", "/proc/self/status"]), 16))
"""
    )
    assert out.split() == [str(bits({"CAP_NET_ADMIN"}))] * 2


def test_the_kernel_holds_one_to_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("23")
    os.chown(secret, 65534, 65534)
    secret.chmod(0o600)
    out = python(
        KEEP
        + f"""
def may(act):
    try:
        act()
        return True
    except PermissionError:
        return False
acts = (
    lambda: Path({str(secret)!r}).read_text(),
    lambda: os.chown({str(secret)!r}, 0, 0),
    lambda: os.setuid(0) or os.setgroups([]),
)
before = []
for act in acts:
    before.append(may(act))
    os.chown({str(secret)!r}, 65534, 65534)
capabilities.keep(frozenset({{"CAP_BPF"}}))
print(before, [may(act) for act in acts])
"""
    )
    assert out == "[True, True, True] [False, False, False]\n"


def test_threads_that_would_keep_capabilities_are_an_error() -> None:
    out = python(
        KEEP
        + """
done = threading.Event()
other = threading.Thread(target=done.wait)
other.start()
before = words()
try:
    capabilities.keep(frozenset())
except PodtallyError as error:
    print(error, words() == before)
done.set()
other.join()
print(sorted(capabilities.keep(frozenset())))
"""
    )
    result, after = out.splitlines()
    assert result.startswith("cannot give up capabilities: 1 other threads have them")
    assert result.endswith("True")
    assert after == "[]"


def test_another_users_directory_is_still_written_to(tmp_path: Path) -> None:
    assert running([tmp_path]) == RUNNING
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    assert running([tmp_path, theirs]) == RUNNING | {"CAP_DAC_OVERRIDE"}
    out = python(
        KEEP
        + f"""
theirs = Path({str(theirs)!r})
capabilities.keep(capabilities.running([theirs]))
(theirs / "file").write_text("23")
print((theirs / "file").read_text())
"""
    )
    assert out == "23\n"


def test_in_effect_is_what_proc_says() -> None:
    (line,) = (
        x for x in Path("/proc/thread-self/status").read_text().splitlines() if x[:6] == "CapEff"
    )
    known = int(line.split()[1], 16) & (1 << len(BIT_OF)) - 1
    assert bits(in_effect()) == known


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
from podtally.kernel import capabilities
try:
    capabilities.require()
except PodtallyError as error:
    print(error)
else:
    print("fine")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of bpf(2) is x86-64's")
def test_require_names_a_seccomp_profile() -> None:
    assert python(_REQUIRE) == "fine\n"
    words = python(_FORBIDDEN + _REQUIRE)
    assert "bpf(2) is refused" in words
    assert "seccomp" in words

# SPDX-License-Identifier: Apache-2.0
"""A host of its own for the unit: real systemd as process 1 of new namespaces, and nothing else."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.kube_node import cgroup2_mount

SYSTEMD = Path("/lib/systemd/systemd")
ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "podtally.service"
_SCRIPT = Path(__file__).with_suffix(".sh")
_NAMESPACES = ("--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--net", "--kill-child")
_UP_SECONDS = 120.0


@dataclass
class Host:
    """Commands are run there as a person at its console would."""

    pid: int  # systemd's, seen from here
    shared: Path

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", "--", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}\n{self.log()}"
        return done.stdout

    def state(self) -> dict[str, str]:
        lines = self.run("systemctl", "show", "podtally").splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    def wait(self, seconds: float, **wanted: str) -> dict[str, str]:
        """Wait until properties of the unit have these values."""
        end = time.monotonic() + seconds
        while not wanted.items() <= (state := self.state()).items():
            result = {key: state.get(key) for key in (*wanted, "Result", "StatusText")}
            assert time.monotonic() < end, f"{result}\n{self.log()}"
            time.sleep(0.1)
        return state

    def metrics(self) -> str:
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9775/metrics').read().decode())"
        return self.run(sys.executable, "-c", ask)

    def log(self) -> str:
        path = self.shared / "agent.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def systemd_host(shared: Path, drop_in: str = "") -> Iterator[Host]:
    """``drop_in``: more for the unit's [Service]. Skips where no such host can be made."""
    for tool in ("unshare", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    if not SYSTEMD.exists():
        pytest.skip("no systemd (Debian: systemd)")
    try:
        cgroup = cgroup2_mount() / f"ptl-systemd-{os.getpid()}"
    except AssertionError as error:
        pytest.skip(str(error))
    logs = (
        "StandardOutput=append:/run/shared/agent.log\nStandardError=append:/run/shared/agent.log\n"
    )
    program = Path(sys.executable).with_name("podtally")
    # This checkout may be under /tmp, of which the unit has its own.
    seen = f"BindReadOnlyPaths={ROOT}\n"
    (shared / "drop-in.conf").write_text(f"[Service]\n{logs}{seen}{drop_in}")
    cgroup.mkdir()
    words = (
        "unshare",
        *_NAMESPACES,
        "bash",
        str(_SCRIPT),
        str(UNIT),
        str(program),
        str(shared),
        str(ROOT),
    )
    enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    said = shared / "systemd_host.log"
    with said.open("wb") as log:
        outer = subprocess.Popen(["sh", "-c", enter, str(cgroup), *words], stdout=log, stderr=log)
    try:
        yield Host(_systemd(outer, said), shared)
    finally:
        outer.kill()
        outer.wait()
        _remove(cgroup)


def _systemd(outer: subprocess.Popen[bytes], said: Path) -> int:
    """Wait until systemd answers; returns its id."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    end = time.monotonic() + _UP_SECONDS
    while time.monotonic() < end:
        if outer.poll() is not None:
            pytest.skip(f"no namespaces or no overlay for a host: {said.read_text()}")
        with suppress(OSError, IndexError):
            pid = int(children.read_text().split()[0])
            asked = ("nsenter", "--target", str(pid), "--all", "--", "systemctl", "is-active", "-q")
            answer = subprocess.run([*asked, "default.target"], capture_output=True, check=False)
            if answer.returncode == 0:
                return pid
        time.sleep(0.1)
    raise AssertionError(f"systemd does not come up: {said.read_text()}")


def _remove(cgroup: Path) -> None:
    """Its processes are gone within moments of process 1."""
    end = time.monotonic() + _UP_SECONDS
    while cgroup.exists():
        with suppress(OSError):
            for directory, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(directory)
        assert time.monotonic() < end, f"{cgroup} stays"
        time.sleep(0.05)

# SPDX-License-Identifier: Apache-2.0
"""Sets the demo's stage and clears it: its network, and what the agent keeps on the host.

Clearing also does for what an earlier demo left that was killed.
"""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from podtally.demo import network
from podtally.demo.policies import POLICY_FILES
from podtally.demo.topology import LOCK, NODE, PIN_DIR, POLICIES, STATE_DIR, agent_config
from podtally.errors import PodtallyError

CONFIG = STATE_DIR / "podtally.yaml"

_TOOLS = ("ip", "nsenter", "setpriv")
_LEFTOVER_SECONDS = 10.0


def check_requirements() -> None:
    """Raise PodtallyError where this user or host cannot hold the demo."""
    if os.geteuid() != 0:
        raise PodtallyError(
            "the demo makes network namespaces and loads eBPF programs: only root may",
            "start it through sudo",
        )
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise PodtallyError(
            f"the demo needs {', '.join(missing)}", "apt-get install iproute2 util-linux"
        )


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the demo's lock; raises PodtallyError while another demo has it.

    The lock is the name of a socket (abstract, unix(7)): it leaves no file, and the kernel
    lets go of it when its holder dies. So whoever has it may take every other trace of a
    demo for a leftover.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(LOCK)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PodtallyError(
                "another podtally demo is running", "end it with Ctrl-C first"
            ) from None
        yield


def build() -> None:
    """Make the network, and the agent's directory with its configuration and the policies."""
    network.build()
    STATE_DIR.mkdir(mode=0o700)
    CONFIG.write_text(agent_config())
    POLICIES.mkdir()
    for name, text in POLICY_FILES.items():
        (POLICIES / name).write_text(text)


def clear() -> None:
    """Remove everything a demo makes; what is not there is no error.

    The programs are detached while their interfaces still stand: a namespace some other
    process lives in (a curious person's shell) outlasts its name.
    """
    namespaces = network.namespaces()
    for netns in namespaces:
        _end_leftovers(netns)
    if PIN_DIR.exists():
        _detach(network.inside(NODE) if NODE in namespaces else [])
        shutil.rmtree(PIN_DIR, ignore_errors=True)
    network.remove()
    shutil.rmtree(STATE_DIR, ignore_errors=True)


def _detach(where: list[str]) -> None:
    """Run ``podtally detach``; removing pins and interfaces does the rest where it cannot."""
    subprocess.run(
        [*where, sys.executable, "-m", "podtally", "detach", "--pin-dir", str(PIN_DIR)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        start_new_session=True,
    )


def _end_leftovers(netns: str) -> None:
    """End podtally's processes in a demo namespace, and no others."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while time.monotonic() < deadline:
            ours = [pid for pid in network.processes(netns) if _is_podtally(pid)]
            if not ours:
                return
            for pid in ours:
                _kill(pid, how)
            time.sleep(0.1)


def _is_podtally(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended
    return b"-m" in command and any(word.startswith(b"podtally") for word in command)


def _kill(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return

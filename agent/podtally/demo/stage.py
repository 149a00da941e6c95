# SPDX-License-Identifier: Apache-2.0
"""Sets up and removes the demo: its network, and the agent's files on the host.

Removing also covers what an earlier demo left when it was killed.
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
from podtally.demo.topology import (
    CANDIDATES,
    LOCK,
    NODE,
    PIN_DIR,
    POLICIES,
    STATE_DIR,
    agent_config,
)
from podtally.errors import PodtallyError

CONFIG = STATE_DIR / "podtally.yaml"

_TOOLS = ("ip", "nsenter", "setpriv")
_LEFTOVER_SECONDS = 10.0


def check_requirements() -> None:
    """Raise PodtallyError if the demo cannot run on this host or as this user."""
    if os.geteuid() != 0:
        raise PodtallyError(
            "the demo needs root, to create network namespaces and load eBPF programs",
            "run it with sudo",
        )
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise PodtallyError(
            f"the demo needs {', '.join(missing)}", "apt-get install iproute2 util-linux"
        )


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the demo's lock; PodtallyError if another demo runs.

    The lock is an abstract socket name (unix(7)): it leaves no file, and the kernel releases
    it when its holder ends. Its holder may therefore remove all other traces of a demo.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(LOCK)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PodtallyError(
                "another podtally demo is running", "stop it first (Ctrl-C)"
            ) from None
        yield


def build() -> None:
    """Create the network, and the agent's directory with its configuration and policies."""
    network.build()
    STATE_DIR.mkdir(mode=0o700)
    CONFIG.write_text(agent_config())
    POLICIES.mkdir()
    CANDIDATES.mkdir()
    for name, text in POLICY_FILES.items():
        (POLICIES / name).write_text(text)


def clear() -> None:
    """Remove everything that a demo creates, if present.

    The programs are detached before their interfaces are removed: a namespace that another
    process uses (a shell) outlives its name.
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
    """Run ``podtally detach``; if it fails, removing pins and interfaces is enough."""
    subprocess.run(
        [*where, sys.executable, "-m", "podtally", "detach", "--pin-dir", str(PIN_DIR)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        start_new_session=True,
    )


def _end_leftovers(netns: str) -> None:
    """Terminate podtally's processes in a demo namespace, and no others."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while time.monotonic() < deadline:
            ours = [pid for pid in network.processes(netns) if _is_podtally(pid)]
            if not ours:
                return
            for pid in ours:
                _kill(pid, number)
            time.sleep(0.1)


def _is_podtally(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended
    return b"-m" in command and any(word.startswith(b"podtally") for word in command)


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return

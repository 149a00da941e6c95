# SPDX-License-Identifier: Apache-2.0
"""The demo's processes, each in a network namespace; none outlives the demo."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from podtally.demo.network import inside

STOP_TIMEOUT_SECONDS = 10.0

Process = subprocess.Popen[bytes]


class Children:
    """Starts processes in namespaces; as a context manager, ends them all."""

    def __init__(self) -> None:
        self._running: list[Process] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(self._running)

    def python(
        self, netns: str, module: Sequence[str], log: IO[bytes] | int, pass_fds: Sequence[int] = ()
    ) -> Process:
        """Run ``python -m MODULE...`` in ``netns``, both outputs to ``log``.

        ``ip netns exec`` would mount another /sys, without the bpffs that the agent needs.
        PR_SET_PDEATHSIG (setpriv): the kernel ends the child with the demo, even if that is
        killed. Its own session keeps the terminal's Ctrl-C from it.
        """
        process = subprocess.Popen(
            [*inside(netns), "setpriv", "--pdeathsig", "TERM", sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def stop(self, processes: Sequence[Process]) -> None:
        """Terminate the processes, kill them after a timeout, and wait for them."""
        for process in processes:
            process.terminate()
        for process in list(processes):
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = [child for child in self._running if child.returncode is None]


_ERROR = "podtally: "  # as the command line prints it


def last_lines(log: Path, lines: int = 5) -> str:
    """Return the end of a log on one line."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(text.strip().splitlines()[-lines:]) or "no output"


def last_error(log: Path) -> str:
    """Return the error that the agent ended with, or the end of its log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    _, found, error = f"\n{text}".rpartition(f"\n{_ERROR}")
    return error.strip() if found else last_lines(log)


def exit_reason(process: Process) -> str:
    """Return how a process ended."""
    code = process.returncode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

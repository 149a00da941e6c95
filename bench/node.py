# SPDX-License-Identifier: Apache-2.0
"""A node for benchmarks of the real agent: namespaces with pairs into it, and the agent in it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.report import progress
from podtally.attach.attacher import Attacher
from podtally.errors import PodtallyError
from podtally.kernel.pins import Pins

NODE = "ptl-bench-node"
PIN_DIR = Path("/sys/fs/bpf/ptl-bench-agent")
LISTEN = "127.0.0.1:9776"


@contextmanager
def agent(
    state: str, *flags: str, enter: Callable[[int], None] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the agent; ``enter`` moves its process, by id, to where it is to run."""
    command = [sys.executable, "-m", "podtally", "run", "--pin-dir", str(PIN_DIR)]
    command += ["--state-dir", state, "--history", f"{state}/history.db"]
    command += ["--listen", LISTEN, *flags]
    # Not `ip netns exec`: that mounts a new /sys, which hides the bpffs.
    inside = ["nsenter", f"--net=/run/netns/{NODE}", *command]
    if enter is not None:
        inside = ["sh", "-c", 'read -r _; exec "$@"', "sh", *inside]
    started = time.monotonic()
    process = subprocess.Popen(inside, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    if enter is not None and process.stdin is not None:
        enter(process.pid)
        started = time.monotonic()
        process.stdin.write(b"\n")
        process.stdin.flush()
    try:
        yield process, started
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


@contextmanager
def node(endpoints: int) -> Iterator[list[str]]:
    names = [f"ptl-bench-{i}" for i in range(endpoints)]
    progress(f"making {endpoints} namespaces")
    try:
        ip(f"netns add {NODE}", *(f"netns add {name}" for name in names))
        ip(
            *(
                f"-n {NODE} link add ptlb{i} up type veth peer name eth0 netns {name}"
                for i, name in enumerate(names)
            )
        )
        ip(f"-n {NODE} link set lo up", *(f"-n {name} link set eth0 up" for name in names))
        ip(f"-n {names[0]} addr add 10.99.250.2/24 dev eth0")
        ip(f"-n {NODE} addr add 10.99.250.1/24 dev ptlb0")
        ping = ["ip", "netns", "exec", names[0], "ping", "-q", "-i", "1", "10.99.250.1"]
        with subprocess.Popen(ping, stdout=subprocess.DEVNULL) as pinging:
            try:
                yield names
            finally:
                pinging.terminate()
    finally:
        remove_pins()
        for name in [*names, NODE]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def remove_pins() -> None:
    """Take the agent's programs off, and remove what it pinned."""
    if PIN_DIR.is_dir():
        pins = Pins(PIN_DIR)
        Attacher(PIN_DIR, {}).detach_all()
        pins.remove_all()
        pins.close()


def ip(*commands: str) -> None:
    for command in commands:
        result = subprocess.run(["ip", *command.split()], check=False, capture_output=True)
        if result.returncode:
            raise PodtallyError(f"ip {command}: {result.stderr.decode().strip()}")


def ready() -> bool:
    code = f"import urllib.request as u; u.urlopen('http://{LISTEN}/readyz', timeout=2)"
    asked = subprocess.run(
        ["nsenter", f"--net=/run/netns/{NODE}", sys.executable, "-Sc", code],
        check=False,
        capture_output=True,
    )
    return asked.returncode == 0


def until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if process.poll() is not None:
            words = process.stderr.read().decode() if process.stderr else ""
            raise PodtallyError(f"the agent did not come up: {words}")
        if time.monotonic() > deadline:
            raise PodtallyError("the agent did not come up within 60 s")
        time.sleep(0.002)

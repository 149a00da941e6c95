# SPDX-License-Identifier: Apache-2.0
"""Measure the cost per packet in the real packet path: small UDP frames over a veth pair.

The programs take turns on one hook, for milliseconds each and in random order; the kernel's own
statistics say what a run took. Between two packets of a flow come all other flows' and the
network stack's own work, which is what leaves caches cold.
"""

import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.attack import compile_spray
from bench.rig import Rig
from podtally.errors import PodtallyError
from podtally.kernel import bpf
from tests.kernel.links_support import ifindex, own_netns, sh

RATE = 20_000  # frames a second: each finds the caches as other work left them
TURN_SECONDS = 0.05
LEAST_RUNS = 100  # of a program in a turn, for its average to count
_ENABLE_STATS = 32  # enum bpf_cmd
UDP, MAC = "17", "02:00:00:00:00:02"


def measure(rig: Rig, flows: int, rounds: int) -> tuple[float, float]:
    """Nanoseconds a packet of the plain counter and of podtally, the empty program's taken off."""
    taken: dict[str, list[float]] = {name: [] for name in rig.programs}
    rig.clear()
    seconds = 60 + 4 * rounds * len(taken) * TURN_SECONDS
    with _traffic(flows, seconds) as hook, _hooked(rig, hook) as link, _statistics():
        rig.settle(lambda: _turn(rig, link, "podtally", 2 * flows / RATE))
        for name in rig.programs:
            _turn(rig, link, name, 2 * flows / RATE)
        for _ in range(rounds):
            for name in random.sample(list(taken), len(taken)):
                if (found := _turn(rig, link, name, TURN_SECONDS)) is not None:
                    taken[name].append(found)
    if not all(taken.values()):
        raise PodtallyError("no frames arrived at the programs under test")
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return medians["plain"] - medians["empty"], medians["podtally"] - medians["empty"]


def _turn(rig: Rig, link: int, name: str, seconds: float) -> float | None:
    """Let a program have the hook for a while; return nanoseconds a run, None of too few runs."""
    bpf.link_update(link, rig.programs[name])
    before = bpf.run_statistics(rig.programs[name])
    time.sleep(seconds)
    after = bpf.run_statistics(rig.programs[name])
    runs = after.runs - before.runs
    return (after.nanoseconds - before.nanoseconds) / runs if runs >= LEAST_RUNS else None


@contextmanager
def _statistics() -> Iterator[None]:
    with bpf.owned(bpf.bpf(_ENABLE_STATS, bpf.make_attr("I", 0))):
        yield


@contextmanager
def _hooked(rig: Rig, hook: int) -> Iterator[int]:
    try:
        link = bpf.tcx_attach(rig.programs["empty"], hook, bpf.TCX_INGRESS)
    except OSError as error:
        raise PodtallyError(f"cannot attach by TCX: {error.strerror}", "use kernel 6.6") from None
    with bpf.owned(link):
        yield link


@contextmanager
def _traffic(flows: int, seconds: float) -> Iterator[int]:
    """Frames of so many flows, in a namespace of their own; the interface at which they arrive."""
    with tempfile.TemporaryDirectory() as folder, own_netns():
        binary = compile_spray(Path(folder))
        sh(f"ip link add sender type veth peer name receiver address {MAC}")
        for name in ("sender", "receiver"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            sh(f"ip link set {name} up")
        addresses = min(flows, 16)
        process = subprocess.Popen(
            [
                *(binary, "sender", MAC, UDP, "10.99.0.1", "10.99.1.1"),
                *(str(addresses), str(flows // addresses), str(RATE), str(seconds)),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            yield ifindex("receiver")
        finally:
            process.kill()
            process.wait()

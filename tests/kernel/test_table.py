# SPDX-License-Identifier: Apache-2.0
"""podtally/kernel/table.py on the running programs: flip, fence, read, clear, and writers meanwhile."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from podtally.kernel import bpf
from podtally.kernel.flow_programs import compile_here
from podtally.kernel.loader import LoadJob, load
from podtally.kernel.table import BATCH
from tests.kernel.driver import FROM, OVERFLOW, TO, Flow, Kernel
from tests.kernel.packets import A4, B4, TCP, UDP, ipv4, ports, tcp
from tests.patience import deadline

ROTATE = Path(__file__).parents[2] / "bench" / "plain.c"
RACED_FLOWS = 32768  # claimed without asking the lane: lost races would count there
FLIPS = 50
TIMES = 23


def send_flows(kernel: Kernel, count: int) -> None:
    for port in range(1, count + 1):
        kernel.send("from_pod", ipv4(UDP, ports(port, 53)))


def read_and_clear(kernel: Kernel, half: int) -> tuple[int, int, int]:
    """Bytes and packets from the endpoint, and flows, of a half at rest."""
    total_bytes = total_packets = flows = 0
    for rows in kernel.table.read(half):
        total_bytes += int(rows.bytes[:, FROM].sum())
        total_packets += int(rows.packets[:, FROM].sum())
        flows += len(rows.place)
    kernel.table.clear(half)
    return total_bytes, total_packets, flows


def flip(kernel: Kernel) -> int:
    """Return the half that is now at rest."""
    rest = kernel.table.epoch & 1
    kernel.table.flip()
    kernel.table.fence()
    return rest


def test_a_flow_is_in_the_half_it_was_counted_in(kernel: Kernel) -> None:
    before, after = ipv4(TCP, tcp(1, 2)), ipv4(TCP, tcp(3, 4))
    kernel.send("from_pod", before, TIMES)
    rest = flip(kernel)
    kernel.send("from_pod", after, TIMES)

    old, new = kernel.entries_of(rest), kernel.entries()
    assert [entry.flow for entry in old] == [Flow(TCP, A4, 1, B4, 2)]
    assert [entry.flow for entry in new] == [Flow(TCP, A4, 3, B4, 4)]
    kernel.table.clear(rest)
    assert kernel.entries_of(rest) == []
    assert kernel.entries() == new


def test_more_flows_than_a_batch(kernel: Kernel) -> None:
    count = BATCH + TIMES
    send_flows(kernel, count)

    batches = list(kernel.table.read(flip(kernel)))

    assert [len(rows.place) for rows in batches] == [BATCH, TIMES]
    assert all((np.diff(rows.fingerprint.astype(object)) > 0).all() for rows in batches)
    cold = np.concatenate([kernel.table.cold(rows.place) for rows in batches])
    assert sorted(cold["local_port"].tolist()) == list(range(1, count + 1))


@pytest.mark.parametrize("count", [TIMES, 40_000], ids=["by the list", "as a whole"])
@pytest.mark.parametrize("cleared", ["nothing", "a part", "all but the count"])
def test_clear_can_be_repeated(kernel: Kernel, count: int, cleared: str) -> None:
    send_flows(kernel, count)
    rest = flip(kernel)
    places = np.concatenate([rows.place for rows in kernel.table.read(rest)])
    zeroed = {"nothing": 0, "a part": len(places) // 2, "all but the count": len(places)}[cleared]
    kernel.hot[places[:zeroed]] = 0

    kernel.table.clear(rest)

    assert kernel.table.used(rest) == 0
    assert not kernel.hot[rest * kernel.table.slots :][: kernel.table.slots].view(np.uint64).any()
    assert flip(kernel) == 1 - rest
    kernel.send("from_pod", ipv4(UDP, ports(1, 53)), TIMES)
    assert [entry.packets for entry in kernel.entries()] == [(TIMES, 0)]


def test_carries_of_the_last_epoch_are_forgotten(kernel: Kernel) -> None:
    """The cold row is not cleared: whoever claims its slot next writes it again."""
    frame, layout = ipv4(UDP, ports()), kernel.layout
    for _ in range(2):
        kernel.send("from_pod", frame)
        (place,) = np.flatnonzero(kernel.hot["fingerprint"])
        kernel.hot["traffic"][place, FROM] += np.uint64(1 << layout.byte_carry_bit)
        kernel.send("from_pod", frame)
        (entry,) = kernel.entries()
        assert entry.bytes == (2 * len(frame) + (1 << layout.byte_carry_bit), 0)
        kernel.table.clear(flip(kernel))
        flip(kernel)


def under_load(send: Callable[[int], int], count: Callable[[], None], senders: int) -> int:
    """Run ``count`` while threads send; return how much they sent in all."""
    stop = threading.Event()
    sent = [0] * senders

    def work(index: int) -> None:
        while not stop.is_set():
            sent[index] += send(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(senders)]
    for thread in threads:
        thread.start()
    try:
        count()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return sum(sent)


def await_packets(kernel: Kernel) -> None:
    """Senders may not have had a CPU since the last flip."""
    until = deadline(60)
    while not kernel.table.used(kernel.table.epoch & 1):
        assert time.monotonic() < until, "no one sends"
        time.sleep(0.0005)


def test_nothing_is_lost_over_flips_under_load(kernel: Kernel) -> None:
    frame, repeat = ipv4(TCP, tcp()), 1000
    size = len(frame)
    seen = np.zeros(3, np.int64)

    def send(index: int) -> int:
        kernel.send("from_pod", frame, repeat)
        return repeat

    def count() -> None:
        for _ in range(FLIPS):
            await_packets(kernel)
            seen[:] += read_and_clear(kernel, flip(kernel))

    sent = under_load(send, count, senders=2)
    seen[:] += read_and_clear(kernel, flip(kernel))

    assert seen[:2].tolist() == [sent * size, sent]
    assert seen[2] >= FLIPS


def test_new_flows_are_claimed_once_over_flips_under_load(kernel: Kernel) -> None:
    """Two senders race for the slots of the same flows, from either end."""
    flows, times = 97, 7
    asked = [ipv4(UDP, ports(port, 53)) for port in range(1, flows + 1)]
    answered = [ipv4(UDP, ports(53, port)) for port in range(1, flows + 1)]
    seen = np.zeros(2, np.int64)

    def send(index: int) -> int:
        program, frames = (("from_pod", asked), ("to_pod", answered))[index]
        for frame in frames:
            kernel.send(program, frame, times)
        return times * flows

    def count() -> None:
        for _ in range(FLIPS):
            take(flip(kernel))

    def take(rest: int) -> None:
        entries = kernel.entries_of(rest)
        assert len({entry.flow for entry in entries}) == len(entries)
        seen[:] += np.sum([entry.packets for entry in entries] or [(0, 0)], axis=0)
        kernel.table.clear(rest)

    sent = under_load(send, count, senders=2)
    take(flip(kernel))

    assert seen[FROM] + seen[TO] == sent
    assert seen.min() > 0


def set_first(pin: Path, value: NDArray[np.generic]) -> None:
    with bpf.owned(bpf.obj_get(pin)) as fd:
        bpf.update(fd, np.zeros(1, np.uint32), value)


@pytest.fixture
def rotate(pin_root: Path, kernel: Kernel) -> Iterator[int]:
    """A program that makes every packet the next flow, and goes on to from_pod."""
    into = pin_root / "rotate"
    load(LoadJob(compile_here(ROTATE), {"room": 128}, str(into)))
    set_first(into / "maps" / "under_test", np.array([kernel.programs["from_pod"]], np.uint32))
    set_first(into / "maps" / "turns", np.array([0, RACED_FLOWS], np.uint64))
    with bpf.owned(bpf.obj_get(into / "progs" / "rotate")) as program:
        yield program
    shutil.rmtree(into)


@pytest.mark.parametrize("shift", [0, 2, 10], ids=["no region", "a region", "a full region"])
def test_a_slot_is_claimed_once(kernel: Kernel, rotate: int, shift: int) -> None:
    """Two CPUs meet the same new flows within nanoseconds of each other."""
    kernel.control["near_shift"] = shift

    def send(index: int) -> int:
        bpf.test_run(rotate, ipv4(UDP, ports()), RACED_FLOWS)
        return RACED_FLOWS

    sent = under_load(send, lambda: time.sleep(0.3), senders=2)

    rows = list(kernel.table.read(flip(kernel)))
    fingerprints = np.concatenate([batch.fingerprint for batch in rows])
    packets = sum(int(batch.packets[:, FROM].sum()) for batch in rows)
    assert len(np.unique(fingerprints)) == len(fingerprints) <= RACED_FLOWS
    assert packets + kernel.account(FROM, OVERFLOW).packets == sent
    assert packets > 0.99 * sent

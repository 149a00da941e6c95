# SPDX-License-Identifier: Apache-2.0
"""podtally/kernel/account_map.py on the running programs: opening, reading and closing accounts."""

import os
import threading

import pytest

from podtally.errors import PodtallyError
from tests.kernel.driver import FROM, LOOPBACK, NOTHING, OTHER, OVERFLOW, TO, Account, Kernel
from tests.kernel.packets import TYPE_ARP, ether

ARP = ether(TYPE_ARP, bytes(28))
TIMES = 23
OTHER_INTERFACE = 77


def test_an_interface_has_an_account_for_each_direction(kernel: Kernel) -> None:
    kernel.books.open_accounts(OTHER_INTERFACE)
    try:
        books = kernel.books.read()
    finally:
        kernel.books.close_accounts(OTHER_INTERFACE)

    accounts = sorted(zip(books.ifindex.tolist(), books.direction.tolist(), strict=True))
    assert accounts == [
        (LOOPBACK, FROM),
        (LOOPBACK, TO),
        (OTHER_INTERFACE, FROM),
        (OTHER_INTERFACE, TO),
    ]
    assert not books.bytes.any()
    assert books.bytes.shape == books.packets.shape == (4, 2)


def test_opening_again_keeps_the_counts(kernel: Kernel) -> None:
    kernel.send("to_pod", ARP, TIMES)
    kernel.books.open_accounts(LOOPBACK)
    kernel.send("to_pod", ARP, TIMES)

    assert kernel.account(TO, OTHER) == Account(2 * TIMES * len(ARP), 2 * TIMES)
    assert kernel.account(TO, OVERFLOW) == kernel.account(FROM, OTHER) == NOTHING


def test_closing_twice_is_no_error(kernel: Kernel) -> None:
    kernel.books.close_accounts(LOOPBACK)
    kernel.books.close_accounts(LOOPBACK)

    assert len(kernel.books.read().ifindex) == 0


def test_sums_over_all_cpus(kernel: Kernel) -> None:
    cpus = sorted(os.sched_getaffinity(0))

    def send(cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        kernel.send("from_pod", ARP, TIMES)

    for cpu in cpus:
        thread = threading.Thread(target=send, args=(cpu,))
        thread.start()
        thread.join()

    times = TIMES * len(cpus)
    assert kernel.account(FROM, OTHER) == Account(times * len(ARP), times)


def test_reads_as_many_as_there_is_room_for(kernel: Kernel) -> None:
    interfaces = range(1000, 1000 + kernel.generation.about.options.books // 2 - 1)
    for ifindex in interfaces:
        kernel.books.open_accounts(ifindex)
    try:
        assert set(kernel.books.read().ifindex.tolist()) == {LOOPBACK, *interfaces}
    finally:
        for ifindex in interfaces:
            kernel.books.close_accounts(ifindex)


def test_too_many_interfaces(small: Kernel) -> None:
    small.books.open_accounts(2)
    try:
        with pytest.raises(PodtallyError, match=r"more than 2 interfaces.*--interfaces"):
            small.books.open_accounts(3)
    finally:
        for ifindex in (2, 3):
            small.books.close_accounts(ifindex)

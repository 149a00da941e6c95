# SPDX-License-Identifier: Apache-2.0
"""The books of interfaces that come, go, and were there before us."""

import numpy as np

from podtally.ledger.interfaces.balance import Losses
from podtally.ledger.interfaces.interfaces import Interfaces


def watch(interfaces: Interfaces, ifindex: int, counter: tuple[int, int]) -> int:
    interfaces.appeared(ifindex, f"veth{ifindex}", counter)
    interfaces.attached(ifindex, True, counter)
    return interfaces.slot(ifindex)


def close(interfaces: Interfaces, ifindex: int, counter: tuple[int, int]) -> list[int]:
    slots = np.array([interfaces.slot(ifindex)])
    interfaces.close(slots, np.array([counter]))
    gap: list[int] = interfaces.gap[slots[0]].tolist()
    return gap


def test_what_passed_before_the_attachment_is_no_gap() -> None:
    interfaces = Interfaces()
    interfaces.appeared(7, "veth7", (1000, 2000))
    interfaces.attached(7, True, (1100, 2000))
    interfaces.booked[interfaces.slot(7)] += (23, 29)
    assert close(interfaces, 7, (1123, 2029)) == [0, 0]
    assert close(interfaces, 7, (1123, 2029)) == [0, 0]
    assert interfaces.low[interfaces.slot(7)].tolist() == [1100, 2000]
    interfaces.booked[interfaces.slot(7)] += (0, 5)
    assert close(interfaces, 7, (1123, 2040)) == [0, 0]  # may still be on its way
    assert close(interfaces, 7, (1123, 2040)) == [0, 6]


def test_booked_more_than_the_interface_saw_is_a_negative_gap() -> None:
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (0, 0))
    interfaces.booked[slot] += (46, 0)
    assert close(interfaces, 7, (23, 0)) == [-23, 0]


def test_a_time_without_programs_widens_the_opening_balance_only() -> None:
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (100, 0))
    interfaces.booked[slot] += (23, 0)
    close(interfaces, 7, (123, 0))
    interfaces.attached(7, True, (1123, 0))  # taken off meanwhile, and on again
    interfaces.booked[slot] += (5, 0)
    assert close(interfaces, 7, (1128, 0)) == [0, 0]
    assert close(interfaces, 7, (1128, 0)) == [0, 0]
    assert interfaces.low[slot].tolist() == [1100, 0]


def test_taken_over_while_counting_changes_nothing() -> None:
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (100, 0))
    interfaces.appeared(7, "veth7", (500, 0))  # a restart: booked from the kernel's rows later
    interfaces.attached(7, False, (500, 0))
    assert interfaces.high[slot].tolist() == [100, 0]
    interfaces.booked[slot] += (400, 0)
    assert close(interfaces, 7, (500, 0)) == [0, 0]


def test_taken_over_without_a_checkpoint_what_the_kernel_still_holds_is_no_gap() -> None:
    interfaces = Interfaces()
    interfaces.appeared(7, "veth7", (1000, 2000))
    interfaces.attached(7, False, (1000, 2000))
    interfaces.booked[interfaces.slot(7)] += (230, 290)  # counted before we came
    assert close(interfaces, 7, (1000, 2000)) == [0, 0]
    interfaces.booked[interfaces.slot(7)] += (23, 29)
    assert close(interfaces, 7, (1023, 2029)) == [0, 0]
    assert close(interfaces, 7, (1023, 2029)) == [0, 0]
    assert interfaces.low[interfaces.slot(7)].tolist() == [770, 1710]
    assert close(interfaces, 7, (1028, 2029)) == [0, 0]
    assert close(interfaces, 7, (1028, 2029)) == [5, 0]  # from then on every byte counts


def test_a_slot_is_used_again_and_remembers_nothing() -> None:
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (100, 0))
    interfaces.booked[slot] += (23, 29)
    close(interfaces, 7, (999, 999))
    interfaces.remove(7)
    assert not interfaces.known(7)
    assert watch(interfaces, 11, (5, 5)) == slot
    assert interfaces.booked[slot].tolist() == [0, 0]
    assert close(interfaces, 11, (5, 5)) == [0, 0]


def test_slots_of_many_rows() -> None:
    interfaces = Interfaces()
    asked = np.array([9, 7, 9, 9, 23, 7])
    slots = interfaces.slots(asked)
    assert interfaces.ifindex[slots].tolist() == asked.tolist()
    assert len(interfaces) == 3
    assert interfaces.slots(np.zeros(0, np.int64)).tolist() == []


def test_unattributed_flows_are_known_by_their_flows_only() -> None:
    interfaces = Interfaces()
    watch(interfaces, 7, (0, 0))
    interfaces.slots(np.array([9]))
    assert interfaces.orphans() == [9]
    assert interfaces.watched_ifindexes() == [7]
    assert (interfaces.name(9), interfaces.name(23)) == ("ifindex 9", "ifindex 23")
    assert not interfaces.known(23)  # asking for a name makes nothing


def test_a_name_that_changes_changes_the_version() -> None:
    interfaces = Interfaces()
    watch(interfaces, 7, (0, 0))
    version = interfaces.version
    interfaces.renamed(7, "web")
    interfaces.renamed(23, "nobody")
    assert interfaces.name(7) == "web"
    assert interfaces.version == version + 1


def test_what_is_dumped_can_be_restored() -> None:
    interfaces = Interfaces()
    for ifindex in (7, 9, 11):
        slot = watch(interfaces, ifindex, (ifindex, 0))
        interfaces.booked[slot] += (23 * ifindex, 1)
    interfaces.slots(np.array([13]))
    interfaces.remove(9)
    again = Interfaces()
    again.restore(*interfaces.dump())
    assert again.dump()[0] == interfaces.dump()[0]
    assert again.dump()[1].tolist() == interfaces.dump()[1].tolist()
    assert again.orphans() == [13]
    assert again.slot(99) == interfaces.slot(99)  # the free one


def test_no_interfaces_can_be_dumped_and_restored() -> None:
    again = Interfaces()
    again.restore(*Interfaces().dump())
    assert len(again) == 0


LARGEST = 65558


def losses(before: int = 0, after: int = 0, frames: int = 0, queued: int = 0) -> Losses:
    """What was lost of the bytes to the endpoint."""
    dropped, gone, counted, waiting = (
        np.array([[0, each]]) for each in (before, after, frames, queued)
    )
    return Losses(dropped, gone, counted, waiting, np.array([LARGEST]))


class Book:
    """One interface with bytes to the endpoint, followed over epochs."""

    def __init__(self) -> None:
        self.interfaces = Interfaces()
        self.slot = watch(self.interfaces, 7, (0, 0))
        self.found = [0, 0, 0]  # in front of the hook, behind it, headers

    def epoch(self, booked: int, counter: int, lost: Losses) -> int:
        """Returns the gap."""
        self.interfaces.booked[self.slot] += (0, booked)
        found = self.interfaces.close(np.array([self.slot]), np.array([[0, counter]]), lost)
        for i, each in enumerate(found[1:]):
            self.found[i] += int(each[0, 1])
        return int(self.interfaces.gap[self.slot, 1])


def test_frames_dropped_behind_the_hook_are_no_gap() -> None:
    book = Book()
    assert book.epoch(1000, 1000, losses()) == 0
    assert book.epoch(126, 1000, losses(after=3)) == 0
    assert book.epoch(0, 1000, losses(after=3)) == 0
    assert book.found == [0, 126, 0]


def test_a_drop_that_is_booked_an_epoch_later_is_no_gap() -> None:
    """The drop counter is read after the flip: what passed in between is booked next."""
    book = Book()
    assert book.epoch(0, 0, losses(after=1)) == 0
    assert book.epoch(1500, 0, losses(after=1)) == 0
    assert book.found == [0, 1500, 0]


def test_drops_explain_no_more_than_their_frames_can_hold() -> None:
    book = Book()
    gap = book.epoch(3 * LARGEST + 23, 0, losses(after=3))
    assert gap == -23
    assert book.epoch(0, 0, losses(after=3)) == -23  # and it stays


def test_drops_of_the_past_explain_nothing_once_traffic_has_rested() -> None:
    book = Book()
    for _ in range(3):
        assert book.epoch(0, 0, losses(after=1000)) == 0
    assert book.epoch(42, 0, losses(after=1000)) == -42


def test_drops_behind_the_hook_hide_no_loss() -> None:
    book = Book()
    assert book.epoch(0, 1000, losses(after=100)) == 0  # under way
    assert book.epoch(0, 1000, losses(after=100)) == 1000


def test_drops_before_the_hook_explain_unbooked_bytes() -> None:
    book = Book()
    assert book.epoch(0, 0, losses()) == 0
    assert book.epoch(0, 3000, losses(before=2)) == 0
    assert book.epoch(0, 3000, losses(before=2)) == 0
    assert book.found == [3000, 0, 0]
    assert book.epoch(0, 3042, losses(before=2)) == 0  # under way
    assert book.epoch(0, 3042, losses(before=2)) == 42


def test_headers_that_a_veth_leaves_out() -> None:
    book = Book()
    assert book.epoch(98 * 5, 84 * 5, losses(frames=5)) == 0
    assert book.epoch(0, 84 * 5, losses(frames=5)) == 0
    assert book.found == [0, 0, 14 * 5]
    assert book.epoch(23, 84 * 5, losses(frames=5)) == -23


def test_what_waits_in_a_queue_is_no_gap_and_narrows_nothing() -> None:
    book = Book()
    book.interfaces.high[book.slot] = 10_000  # the opening balance is not known yet
    assert book.epoch(5000, 2000, losses(queued=3000)) == 0
    assert book.epoch(0, 2000, losses(queued=3000)) == 0
    assert book.epoch(0, 5000, losses()) == 0
    assert book.epoch(0, 5000, losses()) == 0
    assert book.found == [0, 0, 0]


def test_a_counter_that_starts_again_is_new_in_full() -> None:
    book = Book()
    assert book.epoch(0, 0, losses(after=1000)) == 0
    book.epoch(0, 0, losses(after=1000))
    assert book.epoch(42, 0, losses(after=1)) == 0


def test_margins_survive_a_restart() -> None:
    book = Book()
    book.epoch(0, 0, losses(after=1))
    again = Interfaces()
    again.restore(*book.interfaces.dump())
    book.interfaces = again
    assert book.epoch(1500, 0, losses(after=1)) == 0


def test_a_checkpoint_without_drops_can_be_restored() -> None:
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (100, 0))
    interfaces.booked[slot] += (23, 29)
    records, pairs = interfaces.dump()
    again = Interfaces()
    again.restore(records, pairs[:, :7])
    assert again.booked[slot].tolist() == [23, 29]
    assert again.dropped_after[slot].tolist() == [0, 0]


def test_another_interface_under_the_same_number_has_new_books() -> None:
    """It was removed while no agent ran, and its successor has counted less."""
    interfaces = Interfaces()
    slot = watch(interfaces, 7, (0, 0))
    interfaces.booked[slot] += (5000, 7000)
    assert close(interfaces, 7, (5000, 7000)) == [0, 0]
    interfaces.appeared(7, "veth8", (42, 0))
    interfaces.attached(7, True, (42, 70))
    interfaces.booked[slot] += (130, 290)  # 30 and 90 of them its predecessor's last
    assert close(interfaces, 7, (142, 270)) == [0, 0]
    assert close(interfaces, 7, (142, 270)) == [0, 0]
    interfaces.booked[slot] += (23, 0)
    assert close(interfaces, 7, (165, 270)) == [0, 0]
    interfaces.booked[slot] += (23, 0)  # from the first rest on every byte counts
    assert close(interfaces, 7, (165, 270)) == [-23, 0]

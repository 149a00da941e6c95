"""The books of interfaces that come, go, and were there before us."""

import numpy as np

from podtally.ledger.interfaces import Interfaces


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


def test_strays_are_known_by_their_flows_only() -> None:
    interfaces = Interfaces()
    watch(interfaces, 7, (0, 0))
    interfaces.slots(np.array([9]))
    assert interfaces.strays() == [9]
    assert interfaces.watched_ones() == [7]
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
    assert again.strays() == [13]
    assert again.slot(99) == interfaces.slot(99)  # the free one


def test_no_interfaces_can_be_dumped_and_restored() -> None:
    again = Interfaces()
    again.restore(*Interfaces().dump())
    assert len(again) == 0

# SPDX-License-Identifier: Apache-2.0
"""runtime/link_events.py: what is seen before there is a process finder reaches it, and in order."""

from podtally.netlink.model import Appeared, Counters, Event, Gone, Link, Role
from podtally.runtime.link_events import LinkEventQueue


class Asked:
    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def look(self, ifindex: int, nsid: int) -> None:
        self.asked.append(("look", ifindex))

    def forget(self, ifindex: int) -> None:
        self.asked.append(("forget", ifindex))


def appeared(ifindex: int, role: Role = Role.POD) -> Event:
    link = Link(ifindex, f"veth{ifindex}", "veth", 2, 7, True, 0, 0, True)
    return Appeared(link, role, "", Counters(0, 0), 0)


def test_events_before_the_finder_are_forwarded_first_and_stay_in_the_queue() -> None:
    events, finder = LinkEventQueue(), Asked()
    early = [appeared(3), appeared(4, Role.HOST), Gone(3, None, 0), appeared(3)]
    for event in early:
        events.put(event)
    events.forward_to(finder)
    assert finder.asked == [("look", 3), ("forget", 3), ("look", 3)]
    late = appeared(5)
    events.put(late)
    assert finder.asked[3:] == [("look", 5)]
    assert list(events.take()) == [*early, late]
    assert list(events.take()) == []

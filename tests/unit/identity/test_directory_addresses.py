# SPDX-License-Identifier: Apache-2.0
"""Addresses of endpoints in the directory: the owner, since when, and until when."""

import pytest

from podtally.config import StaticEndpoint
from podtally.identity.claims import UNSETTLED
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.local.address_claims import API_LATE_NS, CONTESTED_NS, EVENT_DELAY_NS
from podtally.identity.local.directory import (
    HISTORY_NS,
    REMEMBER_NS,
    TICK_NS,
    Directory,
)
from podtally.identity.model import DISPUTED, UNKNOWN, UNKNOWN_ENDPOINT
from podtally.kube.model import Changed
from podtally.kube.objects import RESOURCES
from podtally.netlink.model import AddressesChanged
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.identity.directory_support import (
    NAMED,
    POD,
    START,
    UID,
    directory,
    endpoint,
    owner,
    packed,
)
from tests.unit.kube_json import Json, event, pod
from tests.unit.rows import NETWORKS, SECOND


def test_addresses_outlive_their_endpoint() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.refresh(START)
    gone = START + SECOND
    made.gone(7, gone)
    assert made.refresh(gone)
    assert owner(made, "10.99.0.7", gone - 1).workload == "blue"
    assert owner(made, "10.99.0.7", gone).workload == ""
    assert made.names.endpoint(7).name == "blue"
    made.refresh(gone + REMEMBER_NS)
    assert made.names.endpoint(7).name == "blue"
    assert made.refresh(gone + 1 + REMEMBER_NS)
    assert made.names.endpoint(7) == UNKNOWN_ENDPOINT
    made.refresh(gone + HISTORY_NS - 1)
    assert owner(made, "10.99.0.7", gone - 1).workload == "blue"
    made.refresh(gone + HISTORY_NS)
    made.appeared(9, "veth9", "", host=False, at_ns=gone)
    made.refresh(gone + HISTORY_NS)
    assert owner(made, "10.99.0.7", gone - 1).workload == ""


def test_an_endpoint_with_waiting_flows_is_not_forgotten() -> None:
    patient = Directory((), NETWORKS, 2 * REMEMBER_NS)
    patient.appeared(7, "veth7", "", host=False, at_ns=START)
    patient.process_found(7, POD)
    patient.gone(7, START + SECOND)
    patient.refresh(START + REMEMBER_NS + 2 * SECOND)
    patient.named(UID, NAMED)
    assert endpoint(patient, at_ns=START + REMEMBER_NS + 3 * SECOND) == NAMED


def reassigned() -> Directory:
    """From blue behind veth7 to green behind veth9, reported a second later."""
    made = directory()
    made.netns_named(7, "blue")
    made.appeared(9, "veth9", "green", host=False, at_ns=START + SECOND)
    made.apply_addresses(AddressesChanged(9, (packed("10.99.0.7"),), START + SECOND))
    made.refresh(START + SECOND)
    return made


def test_an_address_that_two_have_is_disputed() -> None:
    """Not final for a moment, in which the first may be reported to have lost it."""
    made = reassigned()
    assert owner(made, "10.99.0.7", START + SECOND - 1).workload == "blue"
    assert owner(made, "10.99.0.7", START + SECOND) == UNSETTLED
    assert owner(made, "2001:db8::7", START + SECOND).workload == "blue"
    made.refresh(START + SECOND + EVENT_DELAY_NS)
    assert owner(made, "10.99.0.7", START + SECOND) == DISPUTED
    made.gone(9, START + 4 * SECOND)
    made.refresh(START + 4 * SECOND)
    assert owner(made, "10.99.0.7", START + 4 * SECOND - 1) == DISPUTED
    assert owner(made, "10.99.0.7", START + 4 * SECOND).workload == "blue"


def test_a_released_address_is_the_next_ones() -> None:
    made = reassigned()
    made.gone(7, START + SECOND + EVENT_DELAY_NS // 2)
    made.refresh(START + SECOND + EVENT_DELAY_NS // 2)
    assert owner(made, "10.99.0.7", START + SECOND - 1).workload == "blue"
    assert owner(made, "10.99.0.7", START + SECOND).workload == "green"


def test_a_packet_proves_since_when_an_address_is_anothers() -> None:
    made = reassigned()
    assert made.contested() == ["10.99.0.7"]
    sent = START + SECOND // 2
    made.observed(9, packed("10.99.0.7"), sent)
    made.observed(9, packed("2001:db8::9"), sent)  # never said to be his: proves nothing
    made.observed(9, packed("10.99.0.7"), sent + 23)  # nor does what came later
    made.gone(7, START + SECOND + EVENT_DELAY_NS // 2)
    made.refresh(START + SECOND + EVENT_DELAY_NS // 2)
    assert owner(made, "10.99.0.7", sent - TICK_NS - 1).workload == "blue"
    assert owner(made, "10.99.0.7", sent - TICK_NS).workload == "green"
    made.refresh(START + SECOND + CONTESTED_NS + 1)
    assert made.contested() == []


def changed(made: Directory, ifindex: int, address: str, at_ns: int, routed: bool = False) -> None:
    """Add an address to an interface, on its own peer."""
    mine = {
        packed(each)
        for r in made.interface_endpoints()
        if r.ifindex == ifindex
        for each in r.current()
    }
    here = frozenset(mine | {packed(address)}) if routed else frozenset(mine)
    on_link = frozenset({packed(address)})
    made.apply_addresses(AddressesChanged(ifindex, (*mine, *on_link), at_ns, here, on_link))
    made.refresh(at_ns)


@pytest.mark.parametrize("address", ["198.18.7.7", "203.0.113.9", "8.8.8.8"])
def test_an_unrouted_address_is_no_claim(address: str) -> None:
    made = reassigned()
    before = owner(made, address)
    changed(made, 9, address, START)
    assert owner(made, address, START + SECOND) == before
    changed(made, 9, address, START + SECOND, routed=True)
    assert owner(made, address, START + SECOND).workload == "green"


def test_a_removed_route_ends_the_address() -> None:
    made = reassigned()
    nine = packed("10.99.0.9")
    made.apply_addresses(AddressesChanged(9, (nine,), START))
    made.apply_addresses(AddressesChanged(9, (nine,), START + 4 * SECOND, frozenset()))
    made.refresh(START + 4 * SECOND)
    assert owner(made, "10.99.0.9", START + 4 * SECOND - 1).workload == "green"
    assert owner(made, "10.99.0.9", START + 4 * SECOND).kind == "external"


def test_a_static_address_belongs_to_its_entry() -> None:
    made = directory(StaticEndpoint("victim", address="10.99.0.99"))
    changed(made, 7, "10.99.0.99", START)
    assert endpoint(made).name != "victim"


def cluster_of(*pods: Json) -> ClusterState:
    cluster = ClusterState("here")
    decode = next(each for each in RESOURCES if each.name == "pods").decode_event
    for each in pods:
        item = decode(event("ADDED", each)).object
        cluster.apply(Changed("pods", "ADDED", item, START), Clocks(START, START))
    return cluster


def addressed(name: str, uid: str, address: str) -> Json:
    made = pod(name, metadata__uid=uid, spec__nodeName="here")
    made["status"] |= {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
    return made


def test_a_confirmed_address_needs_no_route_and_wins() -> None:
    """As with Cilium: pods have no routes; another endpoint configures the address."""
    made = directory(cluster=cluster_of(addressed("web-0", UID, "10.99.0.7")))
    made.apply_addresses(AddressesChanged(7, (packed("10.99.0.7"),), START, frozenset()))
    made.process_found(7, POD)
    made.refresh(START + SECOND)
    assert owner(made, "10.99.0.7", START + SECOND).uid == UID
    made.appeared(9, "veth9", "green", host=False, at_ns=START)
    changed(made, 9, "10.99.0.7", START + SECOND, routed=True)
    made.refresh(START + SECOND + EVENT_DELAY_NS)
    assert owner(made, "10.99.0.7", START + SECOND).uid == UID


def test_an_address_that_the_api_gives_to_another_is_disputed_after_its_delay() -> None:
    """A remote pod's address on a bridge that many nodes share."""
    there = addressed("there", "uid-there", "10.99.0.50")
    there["spec"]["nodeName"] = "there"
    made = directory(cluster=cluster_of(there))
    made.process_found(7, POD)
    changed(made, 7, "10.99.0.50", START, routed=True)
    made.refresh(START + 1)
    assert owner(made, "10.99.0.50", START).uid == UID
    made.refresh(START + API_LATE_NS)
    assert owner(made, "10.99.0.50", START + API_LATE_NS).kind == UNKNOWN


def running_pod(uid: str = UID, address: str = "10.99.0.7") -> tuple[Directory, ClusterState]:
    """A pod behind interface 7 that the API has, and goes on having."""
    cluster = cluster_of(addressed("web-0", uid, address))
    made = directory(cluster=cluster)
    made.process_found(7, CgroupOwner("pod", uid, "c" * 64))
    made.refresh(START + SECOND)
    return made, cluster


REMOVED = START + 10 * SECOND


def test_a_removed_interface_ends_what_the_api_still_says() -> None:
    """The next pod's interface is heard of late: its packets must not become the former pod's."""
    made, _ = running_pod()
    made.gone(7, REMOVED, removed=True)
    made.refresh(REMOVED + SECOND)
    assert owner(made, "10.99.0.7", REMOVED - 1).uid == UID
    after = owner(made, "10.99.0.7", REMOVED + 1)
    assert (after.kind, after.final) == (UNKNOWN, False)
    made.appeared(9, "veth9", "", host=False, at_ns=REMOVED + 2 * SECOND)
    made.process_found(9, CgroupOwner("pod", "next", "d" * 64))
    made.apply_addresses(AddressesChanged(9, (packed("10.99.0.7"),), REMOVED + 2 * SECOND))
    made.refresh(REMOVED + 2 * SECOND)
    assert owner(made, "10.99.0.7", REMOVED + 2 * SECOND).uid == "next"
    assert "10.99.0.7" in made.contested()  # so its packets are asked about
    made.observed(9, packed("10.99.0.7"), REMOVED + SECOND // 2)
    made.refresh(REMOVED + 2 * SECOND)
    assert owner(made, "10.99.0.7", REMOVED + SECOND // 2).uid == "next"
    assert owner(made, "10.99.0.7", REMOVED + SECOND // 4).kind == UNKNOWN


def test_a_released_address_is_unknown_while_the_api_still_gives_it_to_the_pod() -> None:
    made, _ = running_pod()
    made.gone(7, REMOVED, removed=True)
    made.refresh(REMOVED)
    made.refresh(REMOVED + 6 * SECOND)
    assert owner(made, "10.99.0.7", REMOVED + 1) == DISPUTED
    made.refresh(REMOVED + REMEMBER_NS + 20 * SECOND)  # the interface is forgotten, its end not
    assert owner(made, "10.99.0.7", REMOVED + REMEMBER_NS) == DISPUTED


def test_a_pod_that_the_api_reports_after_its_interface_has_gone() -> None:
    made, cluster = running_pod("other", "10.99.0.8")
    made.appeared(9, "veth9", "", host=False, at_ns=START)
    made.process_found(9, POD)
    made.apply_addresses(AddressesChanged(9, (packed("10.99.0.9"),), START))
    made.gone(9, REMOVED, removed=True)
    made.refresh(REMOVED)
    decode = next(each for each in RESOURCES if each.name == "pods").decode_event
    late = decode(event("ADDED", addressed("late", UID, "10.99.0.9"))).object
    now = REMOVED + SECOND
    made.apply_api_event(Changed("pods", "ADDED", late, now), Clocks(now, now))
    made.refresh(now)
    assert owner(made, "10.99.0.9", REMOVED - 1).uid == UID
    assert owner(made, "10.99.0.9", REMOVED + 1).kind == UNKNOWN
    assert cluster.counts().pods == 2


@pytest.mark.parametrize("read", [True, False], ids=["with its address", "not yet read"])
def test_a_sandbox_made_again_with_the_same_address_keeps_it(read: bool) -> None:
    made, _ = running_pod()
    made.gone(7, REMOVED, removed=True)
    made.refresh(REMOVED)
    made.appeared(9, "veth9", "", host=False, at_ns=REMOVED + SECOND)
    made.process_found(9, POD)
    if read:
        made.apply_addresses(AddressesChanged(9, (packed("10.99.0.7"),), REMOVED + SECOND))
    made.refresh(REMOVED + SECOND)
    assert owner(made, "10.99.0.7", REMOVED + SECOND).uid == UID
    assert owner(made, "10.99.0.7", REMOVED + 2 * SECOND).uid == UID
    made.gone(9, REMOVED + 5 * SECOND, removed=True)
    made.refresh(REMOVED + 5 * SECOND)
    assert owner(made, "10.99.0.7", REMOVED + 6 * SECOND).kind == UNKNOWN


def test_an_interface_no_longer_watched_ends_nothing() -> None:
    """It was deselected, or moved away, and the pod goes on."""
    made, _ = running_pod()
    made.gone(7, REMOVED)
    made.refresh(REMOVED + SECOND)
    assert owner(made, "10.99.0.7", REMOVED + SECOND).uid == UID


def test_a_second_interface_that_goes_ends_only_its_own_addresses() -> None:
    made, _ = running_pod()
    made.appeared(9, "veth9", "", host=False, at_ns=START)
    made.process_found(9, POD)
    made.apply_addresses(AddressesChanged(9, (packed("10.99.1.7"),), START))
    made.gone(9, REMOVED, removed=True)
    made.refresh(REMOVED + SECOND)
    assert owner(made, "10.99.0.7", REMOVED + SECOND).uid == UID


def test_a_table_is_made_only_when_something_changed() -> None:
    made = directory()
    made.netns_named(7, "blue")
    assert made.refresh(START)
    before = made.names
    assert not made.refresh(START + 1)
    made.netns_named(99, "nobody")
    assert not made.refresh(START + 2)
    assert made.names is before
    made.renamed(7, "web")
    assert made.refresh(START + 3)
    assert made.names is not before


def test_a_restarted_agent_remembers_but_checks_again() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.gone(7, START + SECOND)
    again = Directory((), NETWORKS)
    again.restore(made.interface_endpoints(), START + SECOND)
    again.refresh(START + 2 * SECOND)
    assert again.names.endpoint(7).name == "blue"
    again.appeared(7, "veth7", "green", host=False, at_ns=START + 3 * SECOND)  # another
    again.refresh(START + 3 * SECOND)
    assert again.names.endpoint(7).name == "green"
    assert owner(again, "2001:db8::7", START + 3 * SECOND).workload == ""


def test_owners_during_the_downtime_are_unknown() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.appeared(9, "veth9", "green", host=False, at_ns=START)
    made.apply_addresses(AddressesChanged(9, (packed("10.99.0.9"),), START))
    known, now = START + SECOND, START + 5 * SECOND
    again = Directory((), NETWORKS)
    again.restore(made.interface_endpoints(), known)
    again.appeared(9, "veth9", "green", host=False, at_ns=now)
    again.appeared(11, "veth11", "red", host=False, at_ns=now)
    again.interfaces_listed({9, 11}, now)
    again.apply_addresses(AddressesChanged(11, (packed("10.99.0.7"),), now))
    again.refresh(now)
    assert owner(again, "10.99.0.7", known - 1).workload == "blue"
    assert owner(again, "10.99.0.7", known).kind == "unknown"
    assert owner(again, "10.99.0.7", now - 1).kind == "unknown"
    assert owner(again, "10.99.0.7", now).workload == "red"
    assert owner(again, "10.99.0.9", now - 1).workload == "green"  # he was there all the time
    assert set(again.contested()) == {"10.99.0.7", "10.99.0.9", "2001:db8::7"}
    again.observed(11, packed("10.99.0.7"), now - SECOND)  # a packet of his own
    again.refresh(now)
    assert owner(again, "10.99.0.7", now - SECOND).workload == "red"
    assert owner(again, "10.99.0.7", now - 2 * SECOND).kind == "unknown"


def test_the_first_start_has_no_downtime() -> None:
    made = directory()
    made.netns_named(7, "blue")
    made.interfaces_listed({7}, START + SECOND)
    made.refresh(START + SECOND)
    assert owner(made, "10.99.0.7", START - SECOND).workload == "blue"
    assert made.contested() == []


def test_unnamed_interfaces() -> None:
    made = directory()
    made.appeared(9, "veth9", "green", host=False, at_ns=START)
    made.refresh(START)
    assert made.unnamed() == [7]
    assert made.names.endpoint(7).namespace == UNKNOWN
    made.gone(7, START)
    made.refresh(START + 1)
    assert made.unnamed() == []

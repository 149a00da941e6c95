# SPDX-License-Identifier: Apache-2.0
"""An agent killed while pods reuse addresses: unknown is right, a wrong name is not."""

import random
import time

import numpy as np
import pytest

from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import address_number
from podtally.identity.local.directory import Directory
from podtally.identity.model import UNKNOWN, Owner
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.netlink.model import AddressesChanged
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.identity.address_succession import (
    ADDRESS,
    SECOND,
    WALL,
    Truth,
    clocks,
    heard,
    monotonic,
    pod_at,
    succession,
)
from tests.unit.kube_json import Json, Run, list_of

PODS = next(resource for resource in RESOURCES if resource.name == "pods")
PATIENCE_SECONDS = 10.0
PATIENCE_NS = int(PATIENCE_SECONDS * SECOND)
EPOCH_SECONDS = 0.2
HEARD_SECONDS = 0.02  # from a change of a link to when it is heard of, at the latest
TALKS_SECONDS = 0.1  # from then on a pod moves something
PACKED = address_number(ADDRESS).to_bytes(16, "big")


class Agent:
    """The names of one agent after another; all times are Unix seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(WALL)
        monkeypatch.setattr(time, "time_ns", lambda: round(self.now * SECOND))
        self.directory = Directory((), {}, PATIENCE_NS, ClusterState("here"))

    def restart(self, known: float, at: float) -> None:
        residents = self.directory.interface_endpoints()
        self.directory = Directory((), {}, PATIENCE_NS, ClusterState("here"))
        self.directory.restore(residents, monotonic(known))
        self.now = at

    def link(self, truth: Truth, at: float) -> None:
        ifindex, at_ns = ifindex_of(truth), monotonic(at)
        self.directory.appeared(ifindex, truth.uid, "", host=False, at_ns=at_ns)
        self.directory.apply_addresses(AddressesChanged(ifindex, (PACKED,), at_ns))
        self.directory.process_found(ifindex, CgroupOwner("pod", truth.uid, ""))

    def gone(self, truth: Truth, at: float) -> None:
        self.directory.gone(ifindex_of(truth), monotonic(at))

    def looked(self, there: list[Truth]) -> None:
        self.directory.interfaces_listed(
            {ifindex_of(truth) for truth in there}, monotonic(self.now)
        )

    def hear(self, kind: str, item: Json) -> None:
        (pod,) = PODS.decode_list(list_of(item)).objects
        now = clocks(self.now)
        self.directory.apply_api_event(Changed("pods", kind, pod, now.monotonic_ns), now)

    def hear_list(self, items: list[Json]) -> None:
        now, pods = clocks(self.now), PODS.decode_list(list_of(*items)).objects
        self.directory.apply_api_event(ObjectPage("pods", pods, True, True, now.monotonic_ns), now)

    def sent(self, truth: Truth, at: float) -> None:
        """Note the first packet counted on a pod's own interface."""
        if ADDRESS in self.directory.contested():
            self.directory.observed(ifindex_of(truth), PACKED, monotonic(at))

    def refresh(self) -> None:
        self.directory.refresh(monotonic(self.now))

    def owner(self, at: float) -> Owner:
        """As of the last ``refresh``."""
        high, low = (
            np.array([word], np.uint64) for word in divmod(address_number(ADDRESS), 1 << 64)
        )
        names = self.directory.names
        return names.owners[int(names.look_up(high, low, np.array([monotonic(at)]))[0])]


def ifindex_of(truth: Truth) -> int:
    return 100 + int(truth.uid.removeprefix("uid-"))


def life(place: int, begins: float, ends: float) -> Truth:
    return Truth(f"uid-{place}", Run(begins - 1, begins, begins + 0.1, ends - 0.1, ends))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(monkeypatch)


@pytest.mark.parametrize("heard_at", [WALL + 10.9, WALL + 11.4])
def test_the_owner_before_one_that_came_in_the_downtime_is_unknown(
    agent: Agent, heard_at: float
) -> None:
    """No one else claims it, so the pod would have it from long before on."""
    later = life(1, WALL + 10.3, WALL + 20)
    agent.restart(known=WALL + 10, at=WALL + 11)
    if heard_at < agent.now:
        agent.link(later, heard_at)
    agent.looked([later])
    agent.hear_list([])
    if heard_at > agent.now:
        agent.link(later, heard_at)
    agent.now = WALL + 11.5
    agent.refresh()
    assert agent.owner(WALL + 10.2).final
    agent.now = WALL + 14
    agent.hear("ADDED", pod_at(later, WALL + 14))
    agent.refresh()
    assert agent.owner(WALL + 10.2).kind == UNKNOWN
    assert agent.owner(WALL + 11).uid == later.uid


def test_a_pod_without_a_reported_end_does_not_have_the_next_ones_address(
    agent: Agent,
) -> None:
    """The first pod's link was never seen, and the API reports its end two seconds late."""
    first, later = life(0, WALL + 9.9, WALL + 10.3), life(1, WALL + 10.3, WALL + 10.8)
    agent.restart(known=WALL + 9.8, at=WALL + 10.7)
    agent.hear_list([])
    agent.link(later, WALL + 10.6)
    agent.looked([later])
    agent.now = WALL + 12.2
    agent.gone(later, WALL + 10.8)
    agent.hear("ADDED", pod_at(first, WALL + 10.0))
    agent.refresh()
    assert agent.owner(WALL + 10.4).kind == UNKNOWN
    assert agent.owner(WALL + 10.65).uid == later.uid


def test_nor_if_the_next_pod_has_gone_in_the_downtime_as_well(agent: Agent) -> None:
    first = life(0, WALL + 9.9, WALL + 10.3)  # and another until 10.6, which no source reports
    agent.restart(known=WALL + 9.8, at=WALL + 10.7)
    agent.hear_list([])
    agent.looked([])
    agent.now = WALL + 12.2
    agent.hear("ADDED", pod_at(first, WALL + 10.0))
    agent.refresh()
    assert agent.owner(WALL + 10.4).kind == UNKNOWN
    agent.hear("DELETED", pod_at(first, WALL + 10.3))
    agent.now = WALL + 40
    agent.refresh()
    assert agent.owner(WALL + 10.4).kind == UNKNOWN


def test_an_interface_there_before_and_after_had_its_address_all_the_time(agent: Agent) -> None:
    stays = life(0, WALL + 1, WALL + 90)
    agent.link(stays, WALL + 1)
    agent.restart(known=WALL + 9.8, at=WALL + 10.7)
    agent.link(stays, WALL + 10.6)
    agent.looked([stays])
    agent.hear_list([pod_at(stays, WALL + 10)])
    agent.refresh()
    assert agent.owner(WALL + 10.2).uid == stays.uid


def test_a_pod_of_another_node_is_named_by_the_api_alone(agent: Agent) -> None:
    there = pod_at(life(0, WALL + 1, WALL + 90), WALL + 10)
    there["spec"]["nodeName"] = "there"
    agent.restart(known=WALL + 9.8, at=WALL + 10.7)
    agent.looked([])
    agent.hear_list([there])
    agent.refresh()
    assert agent.owner(WALL + 10.2).uid == "uid-0"


class Soak:
    """Pods on an address that was free before, started during the agent's downtime."""

    def __init__(self, agent: Agent, seed: int) -> None:
        random_ = random.Random(seed)
        self.agent = agent
        self.truths = succession(random_, 6)
        self.untold = {truth.uid for truth in self.truths if random_.random() < 0.1}
        events = heard(random_, self.truths, late=4.0)
        self.events = [each for each in events if each[2]["metadata"]["uid"] not in self.untold]
        self.known = self.truths[0].span[0] + random_.uniform(-1.0, 0.5)
        self.looked = self.known + random_.uniform(0.3, 5.0)
        self.changes = sorted(
            (at + random_.uniform(0.0, HEARD_SECONDS), comes, truth)
            for truth in self.truths
            for comes, at in zip((True, False), truth.span, strict=True)
        )
        self.there = [t for t in self.truths if t.span[0] <= self.looked - 0.1 < t.span[1]]
        self.right = self.missed = 0  # instants after the dark
        self._asked = [
            (truth, at)
            for truth in self.truths
            for at in np.arange(truth.span[0] + TALKS_SECONDS, truth.span[1], 0.1).tolist()
            if at >= self.known
        ]

    def run(self) -> None:
        self._links(0.0, self.known)
        self.agent.restart(self.known, self.looked)
        for truth in self.there:
            self.agent.link(truth, self.looked - 0.05)
        self.agent.looked(self.there)
        seen = {each[2]["metadata"]["uid"]: each for each in self.events if each[0] <= self.looked}
        self.agent.hear_list([item for _, kind, item in seen.values() if kind != "DELETED"])
        for at, comes, truth in self.changes:  # what went just now is heard of as well
            if not comes and truth in self.there and at <= self.looked:
                self.agent.gone(truth, at)
        before, end = self.looked, self.truths[-1].span[1] + PATIENCE_SECONDS + 1
        while before < end:
            self._epoch(before, before + EPOCH_SECONDS)
            before += EPOCH_SECONDS
        assert not self._asked

    def _epoch(self, before: float, now: float) -> None:
        """Apply the events; then flows up to now are named, or wait."""
        self._links(before, now)
        for at, kind, item in self.events:
            if before < at <= now:
                self.agent.now = at
                self.agent.hear(kind, item)
        self.agent.now = now
        for truth in self.truths:
            counted = max(truth.span[0] + TALKS_SECONDS, self.looked)
            if before < counted <= now and counted < truth.span[1]:
                self.agent.sent(truth, counted)
        self.agent.refresh()
        self._asked = [each for each in self._asked if each[1] > now or not self._named(*each)]

    def _named(self, truth: Truth, at: float) -> bool:
        owner = self.agent.owner(at)
        waits = not owner.final and self.agent.now < at + PATIENCE_SECONDS
        if not waits and at > self.looked and truth.uid not in self.untold:
            self.right += owner.uid == truth.uid
            self.missed += owner.uid != truth.uid
        assert waits or owner.uid in (truth.uid, "") or UNKNOWN in owner, (truth, at, owner)
        return not waits

    def _links(self, before: float, now: float) -> None:
        for at, comes, truth in self.changes:
            if before < at <= now and not (comes and truth in self.there):
                (self.agent.link if comes else self.agent.gone)(truth, at)


@pytest.mark.parametrize("seed", range(30))
def test_no_wrong_owner_after_a_kill_amid_a_succession(agent: Agent, seed: int) -> None:
    soak = Soak(agent, seed)
    soak.run()
    print(f"named: {soak.right} of {soak.right + soak.missed}")
    assert soak.right >= 0.8 * (soak.right + soak.missed)

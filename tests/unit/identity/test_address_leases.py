# SPDX-License-Identifier: Apache-2.0
"""Pods that reuse each other's addresses: no final owner is wrong, however late the API."""

import itertools
import random
from typing import Any

import pytest

from podtally.identity.cluster.address_leases import SECOND_NS, SKEW_NS, possible_from, sure_from
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.model import DISPUTED, FOREVER, Claim
from podtally.identity.services import parse_address
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.kube.pods import Life
from tests.unit.identity.address_succession import (
    ADDRESS,
    WALL,
    Truth,
    clocks,
    heard,
    monotonic,
    succession,
)
from tests.unit.kube_json import Json, Run, list_of, pod, status

PODS = next(resource for resource in RESOURCES if resource.name == "pods")


class Observer:
    """A ClusterState of another node, and its present claims."""

    def __init__(self, at: float) -> None:
        self.cluster = ClusterState("there")
        self.claims: dict[object, list[Claim]] = {}
        self.hear_list((), at)

    def hear_list(self, items: tuple[Json, ...], at: float) -> None:
        page = PODS.decode_list(list_of(*items))
        self.cluster.apply(ObjectPage("pods", page.objects, True, True, monotonic(at)), clocks(at))
        self.settle(at)

    def hear(self, kind: str, item: Json, at: float) -> None:
        (decoded,) = PODS.decode_list(list_of(item)).objects
        self.cluster.apply(Changed("pods", kind, decoded, monotonic(at)), clocks(at))
        self.settle(at)

    def settle(self, at: float) -> None:
        self.cluster.settle(clocks(at))
        for key, claims in self.cluster.changed_claims():
            self.claims[key] = list(claims)

    def owner(self, at: float, address: str = ADDRESS) -> str:
        """Return a UID, ``disputed``, ``waits`` for an owner that is not final, or ``no owner``."""
        found = {
            claim.owner
            for claims in self.claims.values()
            for claim in claims
            if claim.address == parse_address(address)
            and claim.from_ns <= monotonic(at) < claim.until_ns
        }
        if len(found) != 1:
            return "disputed" if found else "no owner"
        (owner,) = found
        if owner == DISPUTED:
            return "disputed"
        return owner.uid if owner.final else "waits"


def instants(truth: Truth) -> list[float]:
    sandbox, gone = truth.span
    return [sandbox + (gone - sandbox) * (i + 0.5) / 40 for i in range(40)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("late", [0.2, 5.0])
def test_no_wrong_owner_in_a_succession(seed: int, late: float) -> None:
    random_ = random.Random(seed)
    truths = succession(random_, 12)
    observer = Observer(WALL)
    for at, kind, item in heard(random_, truths, late):
        observer.hear(kind, item, at)
    observer.settle(at + 6)
    named = whole = 0.0
    for truth in truths:
        answers = [observer.owner(moment) for moment in instants(truth)]
        assert set(answers) <= {truth.uid, "disputed", "no owner"}, truth
        ran = instants(truth)[-1] - instants(truth)[0]
        named += ran * answers.count(truth.uid) / len(answers)
        whole += ran
    print(f"named: {named / whole:.2f} of {whole:.0f} s")
    assert named > 0.6 * whole


@pytest.mark.parametrize("seed", range(10))
def test_the_end_of_a_lease_is_not_final_before_the_next_could_be_reported(seed: int) -> None:
    """As soon as an end is reported, the next pod may have the address without being reported."""
    random_ = random.Random(seed)
    truths = succession(random_, 12)
    observer = Observer(WALL)
    for at, kind, item in heard(random_, truths, late=5.0):
        observer.hear(kind, item, at)
        ended = {t.uid for t in truths if t.uid == item["metadata"]["uid"] and kind == "DELETED"}
        for truth, moment in itertools.product(truths, (at - 0.7, at - 0.3, at)):
            sandbox, gone = truth.span
            if sandbox <= moment < gone and truth.uid not in ended:
                assert observer.owner(moment) not in ended


def running(uid: str, started: float, address: str = ADDRESS, **more: Any) -> Json:
    run = Run(started - 1, started - 0.5, started)
    return pod(uid, uid, status=status(address, run), **more)


def test_a_pod_stuck_on_a_lost_node_yields_to_the_next() -> None:
    observer = Observer(WALL)
    observer.hear("ADDED", running("lost", WALL + 10), WALL + 11)
    observer.hear("ADDED", running("next", WALL + 50), WALL + 51)
    assert observer.owner(WALL + 20) == "lost"
    assert observer.owner(WALL + 60) == "next"
    observer.hear("DELETED", running("next", WALL + 50), WALL + 90)
    observer.settle(WALL + 100)
    assert observer.owner(WALL + 95) == "no owner"
    observer.settle(WALL + 90 + 121)  # the next is forgotten, not what it proved
    observer.hear("MODIFIED", running("lost", WALL + 10, metadata__labels={"a": "b"}), WALL + 300)
    assert observer.owner(WALL + 301) == "no owner"


def test_a_pod_with_a_new_sandbox_has_another_address() -> None:
    observer = Observer(WALL)
    observer.hear("ADDED", running("web", WALL + 10), WALL + 11)
    observer.hear("MODIFIED", running("web", WALL + 10, "198.18.0.8"), WALL + 30)
    assert observer.owner(WALL + 15) in ("web", "waits")
    observer.settle(WALL + 36)
    assert observer.owner(WALL + 15) == "web"
    assert observer.owner(WALL + 31) == "no owner"
    assert observer.owner(WALL + 31, "198.18.0.8") == "web"
    assert observer.owner(WALL + 5, "198.18.0.8") == "no owner"


def test_before_the_first_list_only_certain_times_are_claimed() -> None:
    observer = Observer(WALL)
    # Admitted long before it got its address, which another may have had, gone before the list.
    waited = pod("waited", "waited", status=status(ADDRESS, Run(WALL - 60, WALL - 5, WALL - 4.5)))
    observer.hear_list((waited,), WALL)
    assert observer.owner(WALL - 30) == "disputed"
    assert observer.owner(WALL - 3) == "waited"
    # Heard of as it came: no other pod can have had the address that the list did not show.
    came = pod("came", "came", status=status("198.18.0.9", Run(WALL + 10, WALL + 20, WALL + 20)))
    observer.hear("ADDED", came, WALL + 21)
    assert observer.owner(WALL + 15, "198.18.0.9") == "came"


def test_both_addresses_of_a_dual_stack_pod() -> None:
    observer = Observer(WALL)
    item = running("dual", WALL + 10)
    item["status"]["podIPs"] = [{"ip": ADDRESS}, {"ip": "2001:db8::7"}]
    observer.hear("ADDED", item, WALL + 11)
    assert observer.owner(WALL + 11) == "dual"
    assert observer.owner(WALL + 11, "2001:db8::7") == "dual"
    assert [c.until_ns for c in observer.claims["pod", "dual"]] == [FOREVER, FOREVER]


def test_host_network_pods_claim_nothing() -> None:
    observer = Observer(WALL)
    observer.hear("ADDED", running("host", WALL + 10, spec__hostNetwork=True), WALL + 11)
    assert observer.owner(WALL + 11) == "no owner"


def test_terminating_pods_keep_their_address() -> None:
    observer = Observer(WALL)
    ends = {"metadata__deletionTimestamp": "2027-01-15T09:00:00Z"}
    observer.hear("MODIFIED", running("web", WALL + 10, **ends), WALL + 11)
    assert observer.owner(WALL + 500) == "web"
    observer.hear("DELETED", running("web", WALL + 10, **ends), WALL + 600)
    observer.settle(WALL + 606)
    assert observer.owner(WALL + 599) == "web"
    assert observer.owner(WALL + 600.5) == "no owner"


def test_a_step_of_the_wall_clock_moves_no_claim() -> None:
    observer = Observer(WALL)
    observer.hear("ADDED", running("web", WALL + 10), WALL + 11)
    (before,) = observer.claims["pod", "web"]
    (decoded,) = PODS.decode_list(
        list_of(running("web", WALL + 10, metadata__labels={"a": "b"}))
    ).objects
    stepped = Clocks(clocks(WALL + 3600).wall_ns, clocks(WALL + 20).monotonic_ns)
    observer.cluster.apply(Changed("pods", "MODIFIED", decoded, stepped.monotonic_ns), stepped)
    (_, (after,)) = next(iter(observer.cluster.changed_claims()))
    assert after.from_ns == before.from_ns
    assert after.owner.labels == (("a", "b"),)


def ended(uid: str, run: Run, **more: Any) -> Json:
    return pod(uid, uid, status=status(ADDRESS, run, "Succeeded"), **more)


def test_the_last_second_waits_for_a_pod_that_may_have_started_in_it() -> None:
    """The API gives whole seconds: the next pod may have the address in the same second."""
    first = Run(WALL + 10, WALL + 11, WALL + 12, finished=WALL + 20.1, gone=WALL + 20.2)
    second = Run(WALL + 20, WALL + 20.5, WALL + 20.6)
    observer = Observer(WALL)
    observer.hear("ADDED", ended("first", first), WALL + 21.5)
    assert observer.owner(WALL + 19.8) == "first"
    assert observer.owner(WALL + 20.7) == "waits"
    alone = Observer(WALL)
    alone.hear("ADDED", ended("first", first), WALL + 21.5)
    alone.settle(WALL + 27)
    assert alone.owner(WALL + 20.7) == "first"
    observer.hear("ADDED", pod("second", "second", status=status(ADDRESS, second)), WALL + 23)
    assert observer.owner(WALL + 20.7) == "disputed"
    observer.settle(WALL + 27)
    assert observer.owner(WALL + 20.7) == "disputed"
    assert observer.owner(WALL + 21.8) == "second"


def test_a_reported_pod_had_its_address_before() -> None:
    observer = Observer(WALL)
    run = Run(WALL + 10, WALL + 11, WALL + 12, finished=WALL + 20.1)
    observer.hear("ADDED", running("web", WALL + 12.0), WALL + 12.1)
    assert observer.owner(WALL + 12.2) == "web"
    observer.hear("MODIFIED", ended("web", run), WALL + 20.3)
    assert observer.claims["pod", "web"][-1].until_ns == monotonic(WALL + 20.3)


def test_forgetting_earlier_pods_changes_nothing() -> None:
    first = Run(WALL + 10, WALL + 11, WALL + 12, finished=WALL + 20.1, gone=WALL + 22.2)
    observer = Observer(WALL)
    observer.hear("ADDED", ended("first", first), WALL + 22.5)
    observer.hear("ADDED", running("second", WALL + 22.6), WALL + 23)
    observer.hear("DELETED", ended("first", first), WALL + 23.5)
    observer.settle(WALL + 40)
    before = observer.claims["pod", "second"]
    assert len(before) == 2  # disputed until it is sure
    observer.settle(WALL + 23.5 + 121)
    observer.hear(
        "MODIFIED", running("second", WALL + 22.6, metadata__labels={"a": "b"}), WALL + 150
    )
    after = observer.claims["pod", "second"]
    assert [claim[2:] for claim in after] == [claim[2:] for claim in before]


def test_the_clock_of_another_node_may_be_ahead() -> None:
    """So a pod may have had its address before the second in which it was admitted."""
    life = Life(100, 0, 0, 0, 0, 0, over=False)
    assert possible_from(life, 0) == 100 * SECOND_NS - SKEW_NS
    assert possible_from(life, 5) == 100 * SECOND_NS - SKEW_NS + 5
    assert possible_from(life, -200 * SECOND_NS) == 0
    assert sure_from(life._replace(sandbox_seconds=101), 0, 200 * SECOND_NS) == (
        102 * SECOND_NS + SKEW_NS
    )

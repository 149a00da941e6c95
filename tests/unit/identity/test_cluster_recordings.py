# SPDX-License-Identifier: Apache-2.0
"""Claims from a recorded watch of a real cluster, compared with the known addresses of each pod."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.model import DISPUTED, FOREVER, Claim
from podtally.identity.services import BackendAddress, parse_address
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES

RECORDINGS = Path(__file__).parents[4] / "shared" / "k8s-recordings"
SECOND = 1_000_000_000
START = 1000 * SECOND  # CLOCK_MONOTONIC when the recording began
DECODERS = {resource.name: resource for resource in RESOURCES}
NOBODY = "nobody"
AMBIGUOUS = "disputed"

pytestmark = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason=f"no recordings of a cluster in {RECORDINGS}"
)


class Truth(NamedTuple):
    """The pod certainly had the address from ``got`` to ``lost``, in ns, and not after ``gone``."""

    uid: str
    address: int
    got: int
    lost: int
    gone: int


def monotonic(seconds: float) -> int:
    return START + round(seconds * SECOND)


def recorded(name: str) -> Iterator[tuple[float, bytes]]:
    lines = (RECORDINGS / "watch" / f"{name}.jsonl").read_bytes().splitlines()
    times = (RECORDINGS / "watch" / f"{name}.recv-seconds.txt").read_text().split()
    yield from zip(map(float, times), lines, strict=True)


def wall_offset() -> float:
    """Return Unix time minus the recording's: the least by which no event is in the future."""
    found = 0.0
    for at, line in recorded("pods"):
        item = json.loads(line)["object"]
        stamps = [item["metadata"].get("creationTimestamp")]
        stamps.append(item.get("status", {}).get("startTime"))
        known = [datetime.fromisoformat(stamp).timestamp() for stamp in stamps if stamp]
        found = max([found, *(stamp - at for stamp in known)])
    return found


OFFSET = wall_offset() if RECORDINGS.is_dir() else 0.0


def clocks(seconds: float) -> Clocks:
    return Clocks(round((OFFSET + seconds) * SECOND), monotonic(seconds))


class Replay:
    """A ClusterState that is fed with the recording, and its claims."""

    def __init__(self, node: str = "node2") -> None:
        self.cluster = ClusterState(node)
        self.claims: dict[object, list[Claim]] = {}
        for name in ("nodes", "services", "endpointslices", "namespaces", "pods"):
            self.page(name, f"{name}.list.json", 0.0)

    def page(self, name: str, file: str, at: float) -> None:
        page = DECODERS[name].decode_list((RECORDINGS / "api" / file).read_bytes())
        self.cluster.apply(ObjectPage(name, page.objects, True, True, monotonic(at)), clocks(at))
        self.collect()

    def settle(self, at: float) -> None:
        self.cluster.settle(clocks(at))
        self.collect()

    def collect(self) -> None:
        for key, claims in self.cluster.changed_claims():
            self.claims[key] = list(claims)

    def play(self, name: str = "pods") -> Iterator[float]:
        """Apply the events; yield the time of each."""
        for at, line in recorded(name):
            event = DECODERS[name].decode_event(line)
            if event.object is not None:
                change = Changed(name, event.type, event.object, monotonic(at))
                self.cluster.apply(change, clocks(at))
                self.settle(at)
                yield at

    def owner(self, address: int, at_ns: int) -> str:
        """Return the only owner among the strongest claims to an address: the reference."""
        found = [
            claim
            for claims in self.claims.values()
            for claim in claims
            if claim.address == address and claim.from_ns <= at_ns < claim.until_ns
        ]
        strongest = max((claim.strength for claim in found), default=0)
        owners = {claim.owner for claim in found if claim.strength == strongest}
        if not owners:
            return NOBODY
        owner = owners.pop()
        return AMBIGUOUS if owners or owner == DISPUTED or not owner.final else owner.uid


def truths() -> list[Truth]:
    events = json.loads((RECORDINGS / "watch" / "addresses.json").read_text())
    timeline = json.loads((RECORDINGS / "watch" / "timeline.json").read_text())
    swept = next(e["t"] for e in timeline if e["step"] == "namespace payments deleted")
    found = []
    for event in events:
        if event["event"] != "got" or event["pod"] == "oneshot":
            continue
        ends = [e for e in events if e["uid"] == event["uid"] and e["event"] == "deleted"]
        lost, gone = (ends[0]["t"], ends[0]["gone_t"]) if ends else (swept, swept + 11)
        address = parse_address(event["ip"])
        assert address is not None
        times = map(monotonic, (event["t"], lost, gone))
        found.append(Truth(event["uid"], address, *times))
    return found


@pytest.fixture(scope="module")
def whole() -> Replay:
    replay = Replay()
    for _ in replay.play():
        pass
    replay.settle(70.0)
    return replay


def instants(first: int, last: int) -> range:
    return range(first, last, SECOND // 50)


def test_no_instant_is_claimed_wrongly(whole: Replay) -> None:
    shares = []
    for truth in truths():
        answers = [whole.owner(truth.address, at) for at in instants(truth.got, truth.lost)]
        assert set(answers) <= {truth.uid, AMBIGUOUS}
        shares.append((answers.count(AMBIGUOUS), len(answers)))
    disputed, asked = map(sum, zip(*shares, strict=True))
    print(f"disputed: {disputed} of {asked}")
    assert asked > 600
    assert disputed <= asked * 0.01


def test_the_address_of_a_removed_pod_is_not_claimed_for_it(whole: Replay) -> None:
    for truth in truths():
        after = instants(truth.gone, monotonic(65.0))
        assert truth.uid not in {whole.owner(truth.address, at) for at in after}


def test_a_pod_has_its_address_by_the_time_it_is_reported(whole: Replay) -> None:
    for truth in truths():
        assert whole.owner(truth.address, truth.got) == truth.uid


def test_claims_made_live_are_as_right() -> None:
    replay = Replay()
    known = truths()
    asked = 0
    for at in replay.play():
        for truth in known:
            now = monotonic(at)
            if truth.got <= now < truth.lost:
                assert replay.owner(truth.address, now) in (truth.uid, AMBIGUOUS)
                asked += 1
    assert asked > 50


def test_a_completed_pod_has_no_address(whole: Replay) -> None:
    oneshot = "e30d340b-09e4-45ac-aa27-521d524bcbcd"
    address = parse_address("10.244.0.6")
    assert address is not None
    # Its container ran from second 53:06 to some time in 53:07, by the kubelet's clock.
    assert whole.owner(address, monotonic(8.45)) == oneshot
    ended = monotonic(1795197188 + 0.2 - OFFSET)
    assert oneshot not in {whole.owner(address, at) for at in instants(ended, monotonic(60))}


def test_a_completed_pod_yields_to_the_running_one_with_its_address() -> None:
    replay = Replay()
    replay.page("pods", "pods.list.with-shared-ip.json", 47.0)
    replay.settle(60.0)
    address = parse_address("10.244.0.6")
    assert address is not None
    assert replay.owner(address, monotonic(47.0)) == "37d521f1-668d-4f98-92c3-cff5a9b21a70"


def test_a_relist_removes_what_went_meanwhile() -> None:
    replay = Replay()
    for at in replay.play():
        if at > 46.5:
            break
    replay.page("pods", "pods.list.end.json", 200.0)
    for truth in truths():
        assert replay.owner(truth.address, monotonic(200.0)) != truth.uid
    listed = json.loads((RECORDINGS / "api" / "pods.list.end.json").read_text())["items"]
    assert replay.cluster.counts().pods == len(listed)
    replay.settle(200.0 + 121.0)
    pods = {key for key, claims in replay.claims.items() if isinstance(key, tuple) and claims}
    running = {("pod", item["metadata"]["uid"]) for item in listed}
    reuse = {("pod", truth.uid) for truth in truths()}
    assert running & pods
    assert reuse  # their claims stay where they were put; the cluster itself forgot them
    assert all(replay.cluster.endpoint(uid) is None for _, uid in reuse)


def test_host_network_pods_never_have_the_address_of_the_node(whole: Replay) -> None:
    node1, node2 = parse_address("10.200.0.10"), parse_address("10.200.0.11")
    found = {
        (claim.address, claim.owner.kind, claim.owner.name, claim.owner.scope)
        for claims in whole.claims.values()
        for claim in claims
        if claim.address in (node1, node2)
    }
    assert found == {(node1, "node", "node1", "cluster"), (node2, "host", "host", "node")}


def test_services_and_their_backends(whole: Replay) -> None:
    services = whole.cluster.services()
    owner = services.nodeport(6, 30080)
    assert owner is not None
    assert (owner.namespace, owner.name, owner.scope) == ("shop", "frontend-node", "cluster")
    assert services.nodeport(17, 30080) is None
    address = parse_address("10.96.117.36")
    assert address is not None
    assert whole.owner(address, monotonic(30.0)) == "ad835e45-c158-4350-9d79-1f1e5e5b2001"
    pod = parse_address("10.244.0.3")
    assert pod is not None
    assert services.backends(("shop", "db"), (6, 3306)) == (BackendAddress(pod, 3306),)
    assert services.backends(("shop", "db-headless"), (6, 3306)) == (BackendAddress(pod, 3306),)
    assert services.objects["shop", "frontend-node"].type == "NodePort"
    assert services is whole.cluster.services()


def test_endpoints_are_those_of_this_node() -> None:
    replay = Replay("node1")
    endpoint = replay.cluster.endpoint("72587365-e83b-4e58-9886-9a13849bd47c")
    assert endpoint is not None
    assert endpoint[:5] == ("shop", "db-76974f68cf-vs2qt", "db", "Deployment", "kubernetes")
    assert ("app", "db") in endpoint.labels
    assert endpoint.node == "node1"
    places = replay.cluster.cluster_labels()
    assert places.node_name == "node1"
    assert places.namespace_labels("shop") is replay.cluster.namespace_labels("shop")
    assert ("kubernetes.io/metadata.name", "shop") in (places.namespace_labels("shop") or ())
    assert ("kubernetes.io/hostname", "node1") in (places.node_labels("node1") or ())
    assert replay.cluster.endpoint("386b7211-cf93-45f7-a4da-4323dd510800") is None


def test_every_recorded_resource_is_decoded() -> None:
    for name in ("nodes", "services", "endpointslices", "namespaces", "pods"):
        replay = Replay()
        for _ in replay.play(name):
            pass
        body = (RECORDINGS / "api" / f"{name}.list.end.json").read_bytes()
        listed = {item.name for item in DECODERS[name].decode_list(body).objects}
        counts = replay.cluster.counts()._asdict()
        if name in counts:
            assert counts[name] == len(listed)
    assert FOREVER in {c.until_ns for claims in replay.claims.values() for c in claims}

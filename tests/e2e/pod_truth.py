# SPDX-License-Identifier: Apache-2.0
"""Holds what an agent booked against what the pods themselves counted."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from msgspec.structs import astuple

from tests.e2e.address_reuse import Lived
from tests.e2e.agents import Samples
from tests.e2e.kube_node import PodSpec

UNKNOWN = "unknown"
DIRECTIONS = ("egress", "ingress")
PROTOCOLS = ("tcp", "udp")  # what the pods send themselves


class FlowKey(NamedTuple):
    workload: str
    peer: str  # a pod, unknown, or another kind and its name
    protocol: str
    direction: str


class PodKey(NamedTuple):
    pod: str
    direction: str


class Misfit(NamedTuple):
    key: FlowKey | PodKey
    own: int  # bytes, as the pods count
    booked: int


class Verdict(NamedTuple):
    """``wrong``: more under a name than its pod moved; ``short``: less than it moved."""

    wrong: list[Misfit]
    short: list[Misfit]
    unknown_bytes: int  # of both ends, booked under no name
    unknown_own_bytes: int  # of them, those of pods that no source could name

    @property
    def is_exact(self) -> bool:
        return not self.wrong and not self.short

    def __str__(self) -> str:
        lines = [f"wrong {each}" for each in self.wrong[:10]]
        lines += [f"short {each}" for each in self.short[:10]]
        counts = f"{len(self.wrong)} wrong, {len(self.short)} short"
        unknown = f"{self.unknown_bytes} bytes unknown, {self.unknown_own_bytes} of them rightly"
        return "\n".join([f"{counts}; {unknown}", *lines])


def judge(samples: Samples, lived: Iterable[Lived], excused: Collection[str] = ()) -> Verdict:
    """``excused`` are pods of which the agent may have missed something."""
    lived = list(lived)
    own_flows, own_pods = _own_flows(lived), _own_pods(lived)
    flows, pods = booked_flows(samples), booked_pods(samples)
    names = {each.pod.name for each in lived} | {UNKNOWN}
    found: list[Misfit] = []
    for flow in flows.keys() | own_flows.keys():
        if flow.workload in names or flow.peer in names:
            found.append(Misfit(flow, own_flows[flow], flows[flow]))
    for pod in pods.keys() | own_pods.keys():
        if pod.pod in names:
            found.append(Misfit(pod, own_pods[pod], pods[pod]))
    strays = [Misfit(key, 0, n) for key, n in flows.items() if _is_misplaced(key, n)]
    wrong = [each for each in found if each.booked > each.own and not (excused and _unknown(each))]
    return Verdict(
        wrong=wrong + [each for each in strays if each not in wrong],
        short=[each for each in found if each.booked < each.own and not _excused(each, excused)],
        unknown_bytes=sum(n for key, n in flows.items() if UNKNOWN in key),
        unknown_own_bytes=sum(n for key, n in own_flows.items() if UNKNOWN in key),
    )


def booked_flows(samples: Samples) -> Counter[FlowKey]:
    found: Counter[FlowKey] = Counter()
    for (name, labels), number in samples.items():
        if name != "podtally_flow_bytes_total":
            continue
        named = dict(labels)
        if named["protocol"] in PROTOCOLS:
            key = FlowKey(named["workload"], _peer(named), named["protocol"], named["direction"])
            found[key] += int(number)
    return found


def booked_pods(samples: Samples) -> Counter[PodKey]:
    found: Counter[PodKey] = Counter()
    for (name, labels), number in samples.items():
        if name == "podtally_pod_bytes_total":
            named = dict(labels)
            found[PodKey(named["pod"], named["direction"])] += int(number)
    return found


def own_of(pod: PodSpec) -> str:
    """What a pod is to be called."""
    return pod.name if pod.has_object else UNKNOWN


def _peer(named: dict[str, str]) -> str:
    if named["peer_kind"] == UNKNOWN or named["peer_workload"] == UNKNOWN:
        return UNKNOWN
    if named["peer_kind"] == "pod":
        return named["peer_workload"]
    return f"{named['peer_kind']} {named['peer_workload']} {named['scope']}"


def _own_flows(lived: Iterable[Lived]) -> Counter[FlowKey]:
    """Both ends of all exchanges: what one sent, the other received."""
    lived = list(lived)
    shown = {each.pod.name: own_of(each.pod) for each in lived}
    found: Counter[FlowKey] = Counter()
    for each in lived:
        pod = own_of(each.pod)
        for peer, protocol, sent, received in map(astuple, each.report.exchanges):
            found[FlowKey(pod, shown.get(peer, peer), protocol, "egress")] += sent
            found[FlowKey(pod, shown.get(peer, peer), protocol, "ingress")] += received
            if peer not in shown:  # a sink; other pods report their own end
                found[FlowKey(peer, pod, protocol, "egress")] += received
                found[FlowKey(peer, pod, protocol, "ingress")] += sent
    return found


def _own_pods(lived: Iterable[Lived]) -> Counter[PodKey]:
    found: Counter[PodKey] = Counter()
    for each in lived:
        for direction, own in zip(
            DIRECTIONS, (each.report.sent, each.report.received), strict=True
        ):
            found[PodKey(own_of(each.pod), direction)] += own
    return found


def _is_misplaced(key: FlowKey, booked: int) -> bool:
    """Pods talk to pods only."""
    return booked > 0 and " " in key.peer


def _unknown(misfit: Misfit) -> bool:
    return UNKNOWN in misfit.key


def _excused(misfit: Misfit, excused: Collection[str]) -> bool:
    return any(part in excused or (excused and part == UNKNOWN) for part in misfit.key)

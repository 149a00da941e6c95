# SPDX-License-Identifier: Apache-2.0
"""The label sets of the contract, in the order of the contract."""

from typing import NamedTuple

DIRECTIONS = ("egress", "ingress")  # as the endpoint sees it; index 0 is from the endpoint
ACCOUNTS = ("flows", "other", "overflow")
DROPS = ("before_hook", "after_hook", "header")  # bytes that one side alone counted
OTHER = "other"  # every label but the direction of a flow beyond the series limit
UNKNOWN = "unknown"

# Protocol numbers that have a name in the metrics; the rest are their number.
PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}


class PodLabels(NamedTuple):
    namespace: str
    pod: str
    direction: str


class BookLabels(NamedTuple):
    interface: str
    direction: str


class FlowLabels(NamedTuple):
    namespace: str
    workload: str
    workload_kind: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    protocol: str
    port: str
    verdict: str


class DeniedLabels(NamedTuple):
    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    policy: str


class UnjudgedLabels(NamedTuple):
    """Of what has the verdict `unknown`: what would have to be known."""

    cause: str


class ScanLabels(NamedTuple):
    """Who has connections of one verdict to, or from, more peers or ports than are reported."""

    namespace: str
    workload: str
    direction: str
    verdict: str


class MissedLabels(NamedTuple):
    """Of what has the verdict `unknown` although policies isolate the endpoint."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    protocol: str
    cause: str


class SpoofedLabels(NamedTuple):
    """Who sends packets from addresses that are not his."""

    namespace: str
    workload: str


class ExposedLabels(NamedTuple):
    """Who gets traffic from outside that nothing declares."""

    namespace: str
    workload: str
    scope: str
    protocol: str
    port: str


class CandidateLabels(NamedTuple):
    """What candidates would change: ``verdict`` is as things are, ``candidate`` with them."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    verdict: str
    candidate: str
    policy: str


class CostLabels(NamedTuple):
    """``direction`` is in the metric's name."""

    namespace: str
    workload: str
    scope: str
    direction: str


class KubecostLabels(NamedTuple):
    """As Kubecost's network-costs and OpenCost have them, not the contract."""

    pod_name: str
    namespace: str
    internet: str
    same_region: str
    same_zone: str
    service: str


def protocol_name(number: int) -> str:
    return PROTOCOLS.get(number, str(number))

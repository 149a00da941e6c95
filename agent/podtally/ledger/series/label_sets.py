# SPDX-License-Identifier: Apache-2.0
"""The label sets of the metrics, with the labels in the order of /metrics."""

from typing import NamedTuple

DIRECTIONS = ("egress", "ingress")  # of the endpoint: index 0 is what it sends
ACCOUNTS = ("flows", "other", "overflow")
DROPS = (
    "before_hook",
    "after_hook",
    "header",
)  # bytes that only the interface or only podtally counted
OTHER = "other"  # the labels of a flow beyond the series limit, but for its direction
UNKNOWN = "unknown"

# Protocol numbers with a name in the metrics; others are shown as numbers.
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
    peer_domain: str = ""


class OutcomeLabels(NamedTuple):
    """The labels of a flow, and what became of the connection."""

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
    peer_domain: str
    outcome: str


class EndingLabels(NamedTuple):
    """How established connections ended."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    scope: str
    ending: str


class RetransmitLabels(NamedTuple):
    """Those of a flow that matter for retransmits."""

    namespace: str
    workload: str
    workload_kind: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    port: str
    peer_domain: str


class HandshakeLabels(NamedTuple):
    namespace: str
    workload: str
    direction: str
    peer_kind: str
    scope: str
    protocol: str
    step: str


class EnforcementLabels(NamedTuple):
    """Verdicts of endpoints that policies isolate, and whether the cluster enforced them."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    protocol: str
    port: str
    verdict: str
    result: str


class AuditLabels(NamedTuple):
    """The same by policy, for `podtally audit`; not in /metrics."""

    policy: str
    namespace: str
    direction: str
    verdict: str
    result: str
    ends: str = ""  # seen on this host: "both", or "one"


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
    peer_domain: str = ""


class LostRetransmitLabels(NamedTuple):
    loss: str


class UnknownLabels(NamedTuple):
    """Connections with the verdict `unknown`, by what would have to be known."""

    cause: str


class ScanLabels(NamedTuple):
    """Workloads with connections to, or from, more peers or ports than are reported one by one."""

    namespace: str
    workload: str
    direction: str
    verdict: str


class UndecidedLabels(NamedTuple):
    """Connections with the verdict `unknown` of endpoints that policies isolate."""

    namespace: str
    workload: str
    direction: str
    peer_kind: str
    protocol: str
    cause: str


class ExpiredLabels(NamedTuple):
    """Connections that policies allow only by a DNS answer that had expired."""

    namespace: str
    workload: str
    protocol: str
    port: str
    policy: str


class SpoofedLabels(NamedTuple):
    """Workloads that send packets from addresses that are not their own."""

    namespace: str
    workload: str


class ExposedLabels(NamedTuple):
    """Workloads with traffic from outside that no Ingress or Service declares."""

    namespace: str
    workload: str
    scope: str
    protocol: str
    port: str


class CandidateLabels(NamedTuple):
    """Verdicts that candidates would change: ``verdict`` holds now, ``candidate`` with them."""

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
    peer_domain: str = ""


class CostLabels(NamedTuple):
    """``direction`` is in the metric's name."""

    namespace: str
    workload: str
    scope: str
    direction: str


class KubecostLabels(NamedTuple):
    """The labels of Kubecost's network costs and OpenCost, which are not podtally's."""

    pod_name: str
    namespace: str
    internet: str
    same_region: str
    same_zone: str
    service: str
    nat_gateway: str = "false"


def protocol_name(number: int) -> str:
    """Return the name of an IP protocol, or its number as text."""
    return PROTOCOLS.get(number, str(number))

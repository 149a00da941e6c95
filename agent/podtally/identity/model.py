# SPDX-License-Identifier: Apache-2.0
"""The values of a name: an Endpoint is on this node, an Owner has an address anywhere."""

from typing import NamedTuple

from podtally.runtimes.model import Labels

UNKNOWN = "unknown"
FOREVER = (1 << 63) - 1  # ns: not ended


Ports = tuple[tuple[str, int, int], ...]  # of containers: name, IANA protocol, number


class Endpoint(NamedTuple):
    """The endpoint behind a watched interface or a host socket."""

    namespace: str
    name: str
    workload: str
    workload_kind: str
    source: str  # of the name: static, kubernetes, cri, pod logs, docker, systemd, host ...
    labels: Labels = ()
    uid: str = ""  # of a pod
    final: bool = True  # False: a better name may still come; flows wait for it
    node: str = ""  # where it runs; "" without an API
    ports: Ports | None = None  # named ports; None: not known
    host_network: bool = False  # it sends through the host's own interfaces


class Owner(NamedTuple):
    """The owner of an address, and how far away it is, seen from this node."""

    kind: str  # pod, service, node, host, external, unknown
    namespace: str
    name: str
    workload: str
    scope: str  # node, cluster, zone, cross_zone, private, internet, unknown
    workload_kind: str = ""
    node: str = ""
    uid: str = ""
    labels: Labels = ()
    final: bool = True  # as with an Endpoint
    ports: Ports | None = None  # as with an Endpoint


class Claim(NamedTuple):
    """A source's statement that an owner has an address for a time: CLOCK_MONOTONIC, in ns.

    Both times are outer bounds: certainly not before ``from_ns``, certainly not from
    ``until_ns`` on (FOREVER: not ended). Of claims to an address at the same time, the higher
    ``strength`` wins; for equal ones see ``claims``.
    """

    address: int  # 128 bits; IPv4 as ::ffff:a.b.c.d
    owner: Owner
    from_ns: int
    until_ns: int = FOREVER
    strength: int = 0


class PeerLabels(NamedTuple):
    """An owner as label values of metrics."""

    kind: str
    namespace: str
    workload: str
    scope: str
    domain: str = ""  # of a peer outside, by which the endpoint found it
    nat: bool = False  # the way there leads through a NAT gateway


UNKNOWN_ENDPOINT = Endpoint(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
PRIVATE = Owner("external", "", "", "", "private")
INTERNET = Owner("external", "", "", "", "internet")
DISPUTED = Owner(UNKNOWN, "", "", "", UNKNOWN)  # several claims, undecidable


def peer_labels(owner: Owner) -> PeerLabels:
    return PeerLabels(owner.kind, owner.namespace, owner.workload, owner.scope)


def owner_of(endpoint: Endpoint, kind: str = "pod") -> Owner:
    """Return an endpoint of this node as the owner of an address."""
    return Owner(
        kind,
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        "node",
        endpoint.workload_kind,
        endpoint.node,
        endpoint.uid,
        endpoint.labels,
        endpoint.final,
        endpoint.ports,
    )


def host_owner(node: str) -> Owner:
    """Return the host itself: one owner, whichever source claims its addresses."""
    return Owner("host", "", "host", "host", "node", node=node, ports=())

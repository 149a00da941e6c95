# SPDX-License-Identifier: Apache-2.0
"""What a name consists of: an Endpoint is watched here, an Owner has an address somewhere."""

from typing import NamedTuple

from podtally.runtimes.model import Labels

UNKNOWN = "unknown"
FOREVER = (1 << 63) - 1  # the end of what has not ended, in ns


Ports = tuple[tuple[str, int, int], ...]  # of containers: name, IANA protocol, number


class Endpoint(NamedTuple):
    """Who is behind a watched interface, or behind a socket of the host."""

    namespace: str
    name: str
    workload: str
    workload_kind: str
    source: str  # how it was found: static, kubernetes, cri, pod logs, docker, systemd, host ...
    labels: Labels = ()
    uid: str = ""  # of a pod
    final: bool = True  # False: its name may still come, and its flows wait for it
    node: str = ""  # that it runs on; "" where no API tells what this node is called
    ports: Ports | None = None  # that have names; None: not known
    host_network: bool = False  # it sends through the host's own interfaces


class Owner(NamedTuple):
    """Who has an address, and how far away that is, seen from this node."""

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
    """That somebody has an address, from a time to a time: CLOCK_MONOTONIC, in ns.

    Both are bounds from outside: certainly not before ``from_ns``, certainly not from
    ``until_ns`` on (FOREVER: it has it now). ``strength`` decides between claims to the
    same address at the same time: the higher wins; between equals see ``addresses``.
    """

    address: int  # 128 bits; IPv4 as ::ffff:a.b.c.d
    owner: Owner
    from_ns: int
    until_ns: int = FOREVER
    strength: int = 0


class PeerLabels(NamedTuple):
    """An owner in the words of the metrics' labels."""

    kind: str
    namespace: str
    workload: str
    scope: str


UNKNOWN_ENDPOINT = Endpoint(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
PRIVATE = Owner("external", "", "", "", "private")
INTERNET = Owner("external", "", "", "", "internet")
DISPUTED = Owner(UNKNOWN, "", "", "", UNKNOWN)  # two have a claim, and nobody can tell


def peer_labels(owner: Owner) -> PeerLabels:
    return PeerLabels(owner.kind, owner.namespace, owner.workload, owner.scope)


def owner_of(endpoint: Endpoint, kind: str = "pod") -> Owner:
    """An endpoint of this node, seen from another."""
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
    """The host itself: one owner, whichever source claims its addresses."""
    return Owner("host", "", "host", "host", "node", node=node, ports=())

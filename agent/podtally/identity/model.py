"""What a name consists of: an Endpoint is watched here, a Peer is at the other end."""

from typing import NamedTuple

UNKNOWN = "unknown"


class Endpoint(NamedTuple):
    """Who is behind a watched interface."""

    namespace: str
    name: str
    workload: str
    workload_kind: str
    source: str  # how it was found: static, netns, pod, docker, systemd, host ...
    labels: tuple[tuple[str, str], ...] = ()


class Peer(NamedTuple):
    """Who is behind a remote address, in the words of the metrics' labels."""

    kind: str  # pod, service, node, host, external, unknown
    namespace: str
    workload: str
    scope: str  # node, cluster, zone, cross_zone, private, internet, unknown


NOBODY = Endpoint(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
PRIVATE = Peer("external", "", "", "private")
INTERNET = Peer("external", "", "", "internet")


def peer_of(endpoint: Endpoint) -> Peer:
    """An endpoint of this node, seen from another."""
    return Peer("pod", endpoint.namespace, endpoint.workload, "node")

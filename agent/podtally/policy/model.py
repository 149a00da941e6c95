# SPDX-License-Identifier: Apache-2.0
"""What policies say, and of whom they are asked; ``reading`` makes it, ``engine`` judges by it.

Everything is immutable and can be hashed. Addresses are 128 bits, IPv4 as ::ffff:a.b.c.d.
A value that is None is not known, where it says so, and nothing is guessed from it.
"""

from typing import NamedTuple

from podtally.runtimes.model import Labels

ALLOWED, DENIED, UNDECLARED, UNKNOWN = "allowed", "denied", "undeclared", "unknown"
VERDICTS = (ALLOWED, DENIED, UNDECLARED, UNKNOWN)

ALLOW, DENY, PASS = "allow", "deny", "pass"

INGRESS, EGRESS = "ingress", "egress"

ADMIN_TIER, NETWORK_TIER, BASELINE_TIER = 0, 1, 2
LAST_PRIORITY = 1001  # of a BaselineAdminNetworkPolicy, which has none: after all that have one

TCP, UDP, SCTP = 6, 17, 132
ANY_PROTOCOL = 0
LAST_PORT = 65535

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"  # the API server sets it, KEP-2161
UNSYNCED = "unsynced"  # the kind of a stand-in for policies that the API has not told of yet


class Requirement(NamedTuple):
    key: str
    operator: str  # In, NotIn, Exists, DoesNotExist
    values: frozenset[str] = frozenset()


class Selector(NamedTuple):
    """All requirements hold; none at all selects everything. A matchLabel is an In of one value."""

    requirements: tuple[Requirement, ...] = ()


EVERYTHING = Selector()


class Network(NamedTuple):
    """What is in a CIDR; host bits are zero."""

    first: int  # the lowest address
    bits: int  # how many of the 128 are fixed: for IPv4 its prefix length plus 96


class Block(NamedTuple):
    """``ipBlock``, or one of an admin policy's ``networks``."""

    network: Network
    excepted: tuple[Network, ...] = ()


class PodPeer(NamedTuple):
    """Pods by labels; ``namespaces`` None: those of the policy's own namespace only."""

    namespaces: Selector | None
    pods: Selector = EVERYTHING


class NodePeer(NamedTuple):
    nodes: Selector


class DomainPeer(NamedTuple):
    names: tuple[str, ...]


class HostSubject(NamedTuple):
    """Endpoints of a machine that are no pods; one of the four that fits is enough.

    Globs are those of ``fnmatch``, upper and lower case told apart.
    """

    endpoints: Selector | None = None  # by their labels
    units: tuple[str, ...] = ()  # globs over names of systemd units
    containers: tuple[str, ...] = ()  # globs over names of containers
    host: bool = False  # all that uses the machine's own network


class PodSubject(NamedTuple):
    """Whom a policy is for; ``namespaces`` None: the policy's own namespace."""

    namespaces: Selector | None
    pods: Selector = EVERYTHING


Subject = PodSubject | HostSubject
Peer = PodPeer | Block | NodePeer | DomainPeer | HostSubject


class PolicyPort(NamedTuple):
    """Ports of the destination: a range with both ends, or what it calls ``name``."""

    protocol: int  # ANY_PROTOCOL: whichever the destination declares under the name
    first: int = 0
    last: int = LAST_PORT
    name: str = ""


class Rule(NamedTuple):
    index: int  # type: ignore[assignment]  # its place in the list, as written
    action: str  # allow, deny, pass; always allow in the network tier
    peers: tuple[Peer, ...] | None = None  # None: everyone. (): nobody
    ports: tuple[PolicyPort, ...] | None = None  # None: every port of every protocol. (): none
    name: str = ""


class Policy(NamedTuple):
    """One object. A direction that is None is not judged (and not isolated) by it."""

    kind: str
    namespace: str  # "" where the kind has none
    name: str
    subject: Subject
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    tier: int = NETWORK_TIER
    priority: int = 0  # within the tier, lowest first; no meaning in the network tier
    candidate: bool = False
    unreadable: str = ""  # what could not be read: may say anything, but of ``untouched``
    untouched: str = ""  # the direction of which even an unreadable policy certainly says nothing


class NamedPort(NamedTuple):
    name: str
    protocol: int
    number: int


POD, NODE, HOST, ADDRESS, UNIDENTIFIED = "pod", "node", "host", "address", "unknown"


class PolicyEndpoint(NamedTuple):
    """One end of a connection.

    ``pod``: a pod, one of the host's network too. ``node``: a node's own traffic. ``host``: an
    endpoint that is no pod: a container, a unit, the host itself (``host_network``: in the
    machine's own network). ``address``: none of these, for certain. ``unknown``: it cannot be
    told who it is.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    labels: Labels | None = ()  # None: not known. Of a node: see node_labels
    namespace_labels: Labels | None = ()  # None: not known, but for the name
    ips: tuple[int, ...] = ()
    ports: tuple[NamedPort, ...] | None = ()  # that have names; None: not known
    node: str = ""  # that it runs on, or is
    node_labels: Labels | None = ()
    host_network: bool = False
    unit: str = ""
    container: str = ""


class Question(NamedTuple):
    """May ``source`` open a connection to ``destination``? The port is the destination's own."""

    source: PolicyEndpoint
    destination: PolicyEndpoint
    protocol: int  # of IANA
    port: int  # 0 where the protocol has none, or which it is, is not known
    source_ip: int  # 0: not known
    destination_ip: int
    # A pod's connection to itself goes through a Service, so that it leaves the pod.
    by_service: bool = False


class DirectionVerdict(NamedTuple):
    """What one end's policies say. ``reasons`` puts it into words, since few are ever read."""

    verdict: str
    cause: str  # one of engine's causes
    policies: tuple[Policy, ...] = ()  # the one that decided, or all that isolate
    rule: Rule | None = None  # of the first policy


class Verdict(NamedTuple):
    verdict: str
    ingress: DirectionVerdict  # of the destination
    egress: DirectionVerdict  # of the source

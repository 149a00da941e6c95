# SPDX-License-Identifier: Apache-2.0
"""Policies, endpoints, questions and verdicts: ``load`` makes policies, the engines judge by them.

Everything is immutable and hashable. Addresses are 128 bits, IPv4 as ::ffff:a.b.c.d.
None means unknown where a comment says so; nothing is guessed from it.
"""

from typing import NamedTuple

from podtally.dns.known_names import NO_NAMES, KnownNames
from podtally.runtimes.model import Labels

ALLOWED, DENIED, UNDECLARED, UNKNOWN = "allowed", "denied", "undeclared", "unknown"
VERDICTS = (ALLOWED, DENIED, UNDECLARED, UNKNOWN)

ALLOW, DENY, PASS = "allow", "deny", "pass"

INGRESS, EGRESS = "ingress", "egress"

ADMIN_TIER, NETWORK_TIER, BASELINE_TIER = 0, 1, 2
LAST_PRIORITY = 1001  # of a BaselineAdminNetworkPolicy, which has none: after all others

TCP, UDP, SCTP = 6, 17, 132
ANY_PROTOCOL = 0
LAST_PORT = 65535

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"  # the API server sets it, KEP-2161
UNSYNCED = "unsynced"  # the kind of a stand-in for policies not yet listed by the API


class Requirement(NamedTuple):
    key: str
    operator: str  # In, NotIn, Exists, DoesNotExist
    values: frozenset[str] = frozenset()


class Selector(NamedTuple):
    """Requirements that must all hold; none selects all. A matchLabel is In with one value."""

    requirements: tuple[Requirement, ...] = ()


EVERYTHING = Selector()


class Network(NamedTuple):
    """The addresses of a CIDR; host bits are zero."""

    first: int  # the lowest address
    bits: int  # prefix length out of 128: for IPv4 the written one plus 96


class Block(NamedTuple):
    """An ``ipBlock``, or one of an admin policy's ``networks``."""

    network: Network
    excepted: tuple[Network, ...] = ()


class PodPeer(NamedTuple):
    """Pods by labels; ``namespaces`` None: the policy's own namespace only."""

    namespaces: Selector | None
    pods: Selector = EVERYTHING


class NodePeer(NamedTuple):
    nodes: Selector


class DomainPeer(NamedTuple):
    """Peers that the source found by a name; see ``domain_patterns`` for the form of names."""

    names: tuple[str, ...]
    is_defined: bool = True  # False: the API does not say what it means in such a rule


class HostSubject(NamedTuple):
    """Endpoints of a host that are not pods; matching one of the four fields is enough.

    Globs are those of ``fnmatch``, case-sensitive.
    """

    endpoints: Selector | None = None  # by label
    units: tuple[str, ...] = ()  # globs over systemd unit names
    containers: tuple[str, ...] = ()  # globs over container names
    host: bool = False  # everything in the host's own network


class PodSubject(NamedTuple):
    """The pods that a policy selects; ``namespaces`` None: the policy's own namespace."""

    namespaces: Selector | None
    pods: Selector = EVERYTHING


Subject = PodSubject | HostSubject
Peer = PodPeer | Block | NodePeer | DomainPeer | HostSubject


class PolicyPort(NamedTuple):
    """Ports of the destination: an inclusive range, or its port called ``name``."""

    protocol: int  # ANY_PROTOCOL: the one the destination declares under the name
    first: int = 0
    last: int = LAST_PORT
    name: str = ""


class Rule(NamedTuple):
    index: int  # type: ignore[assignment]  # position in the list as written
    action: str  # allow, deny, pass; always allow in the network tier
    peers: tuple[Peer, ...] | None = None  # None: all peers. (): no peer
    ports: tuple[PolicyPort, ...] | None = None  # None: every port of every protocol. (): none
    name: str = ""


class Policy(NamedTuple):
    """One policy object. It neither judges nor isolates a direction that is None."""

    kind: str
    namespace: str  # "" where the kind has none
    name: str
    subject: Subject
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    tier: int = NETWORK_TIER
    priority: int = 0  # within the tier, lowest first; no meaning in the network tier
    candidate: bool = False
    unreadable: str = ""  # the problem, if it cannot be read: then it may say anything
    untouched: str = ""  # the direction to which even this unreadable policy does not apply


class NamedPort(NamedTuple):
    name: str
    protocol: int
    number: int


POD, NODE, HOST, ADDRESS, UNIDENTIFIED = "pod", "node", "host", "address", "unknown"


class PolicyEndpoint(NamedTuple):
    """One endpoint of a connection, with everything that policies can select it by.

    ``pod``: a pod, with or without host network. ``node``: a node's own traffic. ``host``: an
    endpoint that is not a pod: a container, a unit, the host itself (``host_network``: in the
    host's own network). ``address``: certainly none of these. ``unknown``: not identified.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    labels: Labels | None = ()  # None: unknown. Of a node: see node_labels
    namespace_labels: Labels | None = ()  # None: unknown, except for the name label
    ips: tuple[int, ...] = ()
    ports: tuple[NamedPort, ...] | None = ()  # named ports; None: unknown
    node: str = ""  # where it runs, or which it is
    node_labels: Labels | None = ()
    host_network: bool = False
    unit: str = ""
    container: str = ""


class Question(NamedTuple):
    """May ``source`` open a connection to ``destination``? The port is the destination's own."""

    source: PolicyEndpoint
    destination: PolicyEndpoint
    protocol: int  # IANA number
    port: int  # 0: the protocol has no ports, or the port is unknown
    source_ip: int  # 0: unknown
    destination_ip: int
    # Through a Service: a pod's connection to itself then leaves the pod.
    by_service: bool = False
    names: KnownNames = NO_NAMES  # by which the source found the destination's address


class DirectionVerdict(NamedTuple):
    """The verdict of one endpoint's policies. ``explain.reasons`` words it on demand."""

    verdict: str
    cause: str  # one of the causes in ``reference.engine``
    policies: tuple[Policy, ...] = ()  # the one that decided, or all that isolate
    rule: Rule | None = None  # of the first policy


class Verdict(NamedTuple):
    verdict: str
    ingress: DirectionVerdict  # by the destination's policies
    egress: DirectionVerdict  # by the source's policies

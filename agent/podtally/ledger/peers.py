# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of each connection, and behind a Service, who answers there."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.model import UNKNOWN, Owner, PeerLabels, peer_labels
from podtally.identity.name_table import Names
from podtally.identity.services import NO_SERVICES, Services, common_backend
from podtally.identity.services import BackendAddress as Address
from podtally.ledger.account import NO_PORT, PeerBackend
from podtally.ledger.connections import BEGAN_THERE, ConnectionColumns
from podtally.ledger.shares import rank
from podtally.netlink.conntrack import Translations, Tuples
from podtally.policy.exposure.exposures import Exposure
from podtally.policy.load.policy_sources import DeclaredPolicies

UNKNOWN_PEER = PeerLabels(UNKNOWN, "", "", UNKNOWN)
NO_OWNER = -1
_SERVED = np.zeros(256, np.bool_)  # by protocol: what a Service's port can be of
_SERVED[[6, 17, 132]] = True  # TCP, UDP, SCTP
_BARE_SEGMENT = 120  # bytes: Ethernet, IPv6, TCP and its options
_WORD = (1 << 64) - 1
_MOST_REMEMBERED = 1 << 16  # ports of Services and nodes
MOST_TRACKED = 2048  # connections of one interface, of a batch, that the tracker is asked about
_OWNER_BITS = 24
_OWNERS = (1 << _OWNER_BITS) - 1


def no_translations(tuples: Tuples) -> Translations:
    n = len(tuples.protocol)
    return Translations(np.zeros(n, np.bool_), np.zeros((n, 2), np.uint64), np.zeros(n, np.uint16))


def no_sockets(tuples: Tuples, _: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.zeros(len(tuples.protocol), np.int64)


class EpochContext(NamedTuple):
    """What is known of the world when an epoch is booked."""

    names: Names
    now_ns: int
    services: Services = NO_SERVICES
    translate: Callable[[Tuples], Translations] = no_translations
    # Of what came in on interfaces (n,): the cgroups of the sockets that take it; 0: none
    sockets: Callable[[Tuples, NDArray[np.uint32]], NDArray[np.int64]] = no_sockets
    # The lower words, in network order, of addresses that became another's a moment ago.
    reassigned: NDArray[np.uint64] = np.zeros(0, np.uint64)
    places: ClusterLabels = NO_CLUSTER_LABELS
    declared: DeclaredPolicies = DeclaredPolicies((), (), ())
    exposure: Exposure | None = None  # None: nobody knows what is declared to be exposed


class NewConnections(NamedTuple):
    """Connections to be named; index i of every array is the same one."""

    key: NDArray[np.void]  # KEY
    began: NDArray[np.uint8]
    at_ns: NDArray[np.int64]  # their first packet
    seen: NDArray[np.uint64]  # as in Columns
    sent: NDArray[np.int64]  # packets from the endpoint
    has_data: NDArray[np.bool_]  # more than headers

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "NewConnections":
        return NewConnections._make(column[index] for column in self)


def new_connections(columns: ConnectionColumns) -> NewConnections:
    sent = columns.packets[:, 0]
    has_data = carries_data(columns.bytes, columns.packets)
    return NewConnections(
        columns.key, columns.began, columns.first_ns, columns.seen, sent, has_data
    )


def carries_data(bytes_: NDArray[np.int64], packets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether packets (n, 2) are larger, on average, than TCP's headers. (n,)"""
    larger: NDArray[np.bool_] = bytes_.sum(axis=1) > _BARE_SEGMENT * packets.sum(axis=1)
    return larger


class PeerKind(NamedTuple):
    """One kind of other end."""

    peer: PeerLabels
    backend: PeerBackend | None = None


class PeerColumns(NamedTuple):
    """Of connections; index i of every array is the same one.

    ``owner``, ``address`` and ``port`` are of who answers: behind a Service, the pod.
    """

    kinds: list[PeerKind]
    kind: NDArray[np.int64]  # places in ``kinds``
    final: NDArray[np.bool_]  # no better name is to come
    owner: NDArray[np.int64]  # places in ``Names.owners``; NO_OWNER: nobody knows
    address: NDArray[np.uint64]  # (n, 2), in host order; 0: nobody knows
    port: NDArray[np.int64]  # of the other end; NO_PORT: there is none, or nobody knows it

    def take(self, index: NDArray[np.int64]) -> "PeerColumns":
        return PeerColumns._make((self.kinds, *(column[index] for column in self[1:])))


class ServiceAnswer(NamedTuple):
    """Who answers for a Service."""

    kind: int
    final: bool
    owner: int
    address: int  # if it is the same whoever answers, and the tracker did not tell
    port: int


class _Services:
    """What has been found of Services; the same until names or backends change."""

    def __init__(self, of: tuple[Names, Services] | None) -> None:
        self.of = of
        self.asked: list[tuple[Owner, int, int]] = []  # owner, protocol, the port that was asked
        self.places: dict[tuple[Owner, int, int], int] = {}  # of each in ``asked``
        self.numbers: dict[int, int] = {}  # in ``asked``, by owner, port and protocol; or NO_OWNER
        self.answers: dict[int, ServiceAnswer] = {}


class PeerFinder:
    """Remembers what the labels need of each owner in one book of addresses."""

    def __init__(self, by_pod: bool = False) -> None:
        self._by_pod = by_pod
        self._forget(())

    def own(
        self, names: Names, address: NDArray[np.uint64], at_ns: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether addresses (n, 2), in network order, are this host's. (n,)"""
        self._learn(names)
        return self._host[_owners(names, address, at_ns)]

    def find(self, flows: NewConnections, present: EpochContext) -> PeerColumns:
        """Name the other ends as of each connection's first packet."""
        names = present.names
        self._learn(names)
        owner = _owners(names, flows.key["remote_address"], flows.at_ns)
        found = PeerColumns(
            self._kinds,
            self._kind[owner],
            self._final[owner],
            owner,
            flows.key["remote_address"].byteswap(),
            flows.key["remote_port"].astype(np.int64),
        )
        # Who asks a Service began it; what comes from such an address is an answer.
        served = self._serves[owner] & (flows.began != BEGAN_THERE)
        if served.any():
            served &= _SERVED[flows.key["protocol"]]
            rows = np.flatnonzero(served)
            service = self._asked(flows.key[rows], owner[rows], present)
            rows, service = rows[service >= 0], service[service >= 0]
            if len(rows):
                behind = self._behind(service, flows.take(rows), present)
                for whole, part in zip(found[1:], behind[1:], strict=True):
                    whole[rows] = part
        return found

    def _forget(self, owners: object) -> None:
        self._owners = owners
        self._kinds: list[PeerKind] = []
        self._places: dict[PeerKind, int] = {}
        self._services = _Services(None)
        self._kind = np.zeros(0, np.int64)
        self._final = np.zeros(0, np.bool_)
        self._host = np.zeros(0, np.bool_)
        self._serves = np.zeros(0, np.bool_)

    def _learn(self, names: Names) -> None:
        """Take in the owners that are new since the last time; their list only grows."""
        if self._owners is not names.owners:
            self._forget(names.owners)
        fresh = names.owners[len(self._kind) :]
        if not len(fresh):
            return
        kinds = [owner.kind for owner in fresh]
        self._kind = np.append(self._kind, [self._place(self._remote(each)) for each in fresh])
        self._final = np.append(self._final, [owner.final for owner in fresh])
        self._host = np.append(self._host, [kind == "host" for kind in kinds])
        serves = [kind in ("service", "node", "host") for kind in kinds]
        self._serves = np.append(self._serves, serves)

    def _remote(self, owner: Owner) -> PeerKind:
        peer = peer_labels(owner)
        is_pod = self._by_pod and owner.kind == "pod"
        return PeerKind(peer._replace(workload=owner.name) if is_pod else peer)

    def _place(self, remote: PeerKind) -> int:
        place = self._places.setdefault(remote, len(self._kinds))
        if place == len(self._kinds):
            self._kinds.append(remote)
        return place

    def _asked(
        self, key: NDArray[np.void], owner: NDArray[np.int64], present: EpochContext
    ) -> NDArray[np.int64]:
        """Numbers of the Services asked, by their address, or a node's and its node port;
        NO_OWNER where it is none. (n,)
        """
        full = len(self._services.numbers) > _MOST_REMEMBERED
        if full or self._services.of != (present.names, present.services):
            self._services = _Services((present.names, present.services))
        port_protocol = key["remote_port"].astype(np.int64) << 8 | key["protocol"]
        different, place = distinct(owner << 24 | port_protocol)
        numbers = [self._number(each, present) for each in different.tolist()]
        return np.array(numbers, np.int64)[place]

    def _number(self, packed: int, present: EpochContext) -> int:
        known = self._services
        number = known.numbers.get(packed)
        if number is None:
            who: Owner | None = present.names.owners[packed >> 24]
            protocol, port = packed & 0xFF, packed >> 8 & 0xFFFF
            if who is not None and who.kind != "service":
                who = present.services.nodeport(protocol, port)
            number = NO_OWNER
            if who is not None:
                if not present.services.backends((who.namespace, who.name), (protocol, port)):
                    protocol = port = 0  # all that nobody answers is one: ports may be scanned
                number = known.places.setdefault((who, protocol, port), len(known.asked))
                if number == len(known.asked):
                    known.asked.append((who, protocol, port))
            known.numbers[packed] = number
        return number

    def _behind(
        self, service: NDArray[np.int64], flows: NewConnections, present: EpochContext
    ) -> PeerColumns:
        """Who answers, as the connection tracker tells, else as far as all backends agree."""
        names, translated = present.names, tracked(flows.key, present)
        changed = translated.found & (translated.address != flows.key["remote_address"]).any(axis=1)
        backend = np.where(changed, _owners(names, translated.address, flows.at_ns), NO_OWNER)
        port = np.where(changed, translated.port.astype(np.int64), NO_PORT)
        different, place = distinct((service << _OWNER_BITS | backend - NO_OWNER) << 16 | port)
        answers = [self._answer(each, present) for each in different.tolist()]
        address = np.array([divmod(a.address, _WORD + 1) for a in answers], np.uint64)[place]
        address[changed] = translated.address[changed].byteswap()
        return PeerColumns(
            self._kinds,
            np.array([a.kind for a in answers], np.int64)[place],
            np.array([a.final for a in answers], np.bool_)[place],
            np.array([a.owner for a in answers], np.int64)[place],
            address,
            np.array([a.port for a in answers], np.int64)[place],
        )

    def _answer(self, packed: int, present: EpochContext) -> ServiceAnswer:
        known = self._services
        answer = known.answers.get(packed)
        if answer is None:
            who, protocol, port = known.asked[packed >> 16 + _OWNER_BITS]
            owner, its_port = (packed >> 16 & _OWNERS) + NO_OWNER, packed & 0xFFFF
            if owner == NO_OWNER:
                answer = self._agreed(who, (protocol, port), present)
            else:
                backend = present.names.owners[owner]
                kind = self._place(_served(who, backend, its_port))
                answer = ServiceAnswer(kind, backend.final, owner, 0, its_port)
            known.answers[packed] = answer
        return answer

    def _agreed(
        self, service: Owner, port: tuple[int, int], present: EpochContext
    ) -> ServiceAnswer:
        """What holds whichever backend was picked."""
        backends = present.services.backends((service.namespace, service.name), port)
        owners = _owners_now(backends, present.names, present.now_ns)
        agreed = common_backend(backends, lambda address: present.names.owners[owners[address]])
        if agreed is None:
            return ServiceAnswer(
                self._place(_served(service, None, NO_PORT)), True, NO_OWNER, 0, NO_PORT
            )
        kind = self._place(_served(service, agreed.owner, agreed.port))
        owner = owners.get(agreed.address, NO_OWNER)
        return ServiceAnswer(kind, True, owner, agreed.address, agreed.port)


def tracked(key: NDArray[np.void], present: EpochContext) -> Translations:
    """What the connection tracker says of connections (n,). An interface that has a flood of new
    ones has no more than its share of questions; the rest is as not found.
    """
    rows = np.flatnonzero(rank(key["ifindex"].astype(np.int64)) < MOST_TRACKED)
    if len(rows) == len(key):
        return present.translate(tracker_tuples(key))
    some, found = present.translate(tracker_tuples(key[rows])), no_translations(tracker_tuples(key))
    found.found[rows], found.address[rows], found.port[rows] = some
    return found


def tracker_tuples(key: NDArray[np.void]) -> Tuples:
    """What the endpoints sent, in the words of the connection tracker."""
    return Tuples(
        key["local_address"],
        key["remote_address"],
        key["local_port"],
        key["remote_port"],
        key["protocol"],
    )


def reversed_keys(key: NDArray[np.void]) -> NDArray[np.void]:
    """The same connections seen from their other end."""
    other = key.copy()
    for one, two in (("local_address", "remote_address"), ("local_port", "remote_port")):
        other[one], other[two] = key[two], key[one]
    return other


def _owners(
    names: Names, address: NDArray[np.uint64], at_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    words = address.byteswap()
    return names.look_up(words[:, 0], words[:, 1], at_ns)


def _served(service: Owner, owner: Owner | None, port: int) -> PeerKind:
    """A Service is as far away as who answers for it."""
    peer = peer_labels(service)
    if owner is None:
        return PeerKind(peer, PeerBackend("", UNKNOWN, port))
    return PeerKind(
        peer._replace(scope=owner.scope), PeerBackend(owner.namespace, owner.workload, port)
    )


def _owners_now(backends: Sequence[Address], names: Names, now_ns: int) -> dict[int, int]:
    """Places in the owners, by address."""
    high = np.array([backend.address >> 64 for backend in backends], np.uint64)
    low = np.array([backend.address & _WORD for backend in backends], np.uint64)
    found = names.look_up(high, low, np.full(len(backends), now_ns))
    return dict(zip((backend.address for backend in backends), found.tolist(), strict=True))

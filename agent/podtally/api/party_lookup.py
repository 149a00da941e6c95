# SPDX-License-Identifier: Apache-2.0
"""Finds whom a question names, by what the running agent knows: names and addresses to Parties.

Called from HTTP threads: it reads tables that are replaced whole, and single entries of what
the main thread writes.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from podtally.api.explanation import near_names
from podtally.errors import PodtallyError
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.directory import Directory
from podtally.identity.model import UNKNOWN, Endpoint, Owner, host_owner
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import IPV4, family_of
from podtally.policy.endpoints import of_endpoint, of_owner
from podtally.policy.model import HOST, NODE, PolicyEndpoint

_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1
_HOST_NAME = "host"
_SERVICE = "service"
_SEE = "see `podtally endpoints` for who is"
# RFC 3927, RFC 4291 2.5.6: of no use beyond one link.
_LINK_LOCAL = ((0xFFFFA9FE << 16, 112), (0xFE80 << 112, 10))

NamedEndpoint = Endpoint | Owner


class PartyLookup:
    """What is known at one moment: endpoints of this host, and owners of addresses."""

    def __init__(self, directory: Directory, node_name: str, now_ns: int) -> None:
        self._cluster = directory.cluster
        self._node_name = node_name
        self._now_ns = now_ns
        self._names = directory.names
        self._gone = {r.ifindex for r in list(directory.residents()) if r.gone_ns}

    def party(self, text: str) -> PolicyEndpoint:
        """NAMESPACE/POD, NAMESPACE/WORKLOAD, an address, or the bare name of what is no pod.

        PodtallyError where nobody is known by it, or a Service is: it is judged by who answers.
        """
        address = parse_address(text)
        if address is not None:
            return self._at(address)
        if text == _HOST_NAME:
            host = self._of_owner(host_owner(self._node_name))
            return host._replace(ips=self._host_addresses())
        namespace, slash, name = text.partition("/")
        who = self._called(namespace, name) if slash else self._called_plainly(text)
        if who is None:
            raise self._nobody(text)
        return self._party(who)._replace(ips=self._addresses_of(who))

    # -- by address ---------------------------------------------------------------------

    def _at(self, address: int) -> PolicyEndpoint:
        owner = self._owner(address)
        if owner.kind == _SERVICE:
            raise _is_service(owner)
        return self._of_owner(owner)._replace(ips=(address,))

    def _owner(self, address: int) -> Owner:
        high, low = (
            np.array([word], np.uint64) for word in (address >> _WORD_BITS, address & _WORD)
        )
        now = np.array([self._now_ns], np.int64)
        return self._names.owners[int(self._names.look_up(high, low, now)[0])]

    @cached_property
    def _held(self) -> dict[Owner, list[int]]:
        """Owners who have addresses now, and which."""
        rows, owners = self._names.addresses.rows, self._names.owners
        now = (rows.from_ns <= self._now_ns) & (self._now_ns < rows.until_ns) & (rows.owner >= 0)
        held: dict[Owner, list[int]] = {}
        columns = (rows.high[now].tolist(), rows.low[now].tolist(), rows.owner[now].tolist())
        for high, low, owner in zip(*columns, strict=True):
            held.setdefault(owners[owner], []).append(high << _WORD_BITS | low)
        return held

    def _addresses_of(self, who: NamedEndpoint) -> tuple[int, ...]:
        if isinstance(who, Endpoint) and who.host_network:
            return self._host_addresses() if self._is_here(who) else self._node_addresses(who)
        mine = [a for owner, some in self._held.items() if _id(owner) == _id(who) for a in some]
        return _ordered(mine)

    def _is_here(self, who: Endpoint) -> bool:
        return who.node in ("", self._node_name)

    def _node_addresses(self, who: Endpoint) -> tuple[int, ...]:
        """Those of another node, on whose network a pod is."""
        told = self._cluster.addresses_of_node(who.node) if self._cluster else ()
        return _one_a_family(filter(None, map(parse_address, told)))

    def _host_addresses(self) -> tuple[int, ...]:
        """None, if there are several of a family: nobody can tell which one would be used."""
        owners = (owner for owner in self._held if owner.kind == _HOST_NAME)
        held = (address for owner in owners for address in self._held[owner])
        return _one_a_family(held)

    # -- by name ------------------------------------------------------------------------

    @cached_property
    def _endpoints(self) -> list[Endpoint]:
        """Those of this host, the latest first."""
        names = self._names
        behind = [each for i, each in names.endpoints.items() if i not in self._gone]
        found = dict.fromkeys((*reversed(behind), *reversed(list(names.sockets.values()))))
        return [each for each in found if UNKNOWN not in (each.namespace, each.name)]

    def _everybody(self) -> Iterator[NamedEndpoint]:
        yield from self._endpoints
        if self._cluster is not None:
            yield from self._cluster.host_network_pods()
        for owner in self._held:
            if owner.name and owner.kind != _SERVICE and owner.namespace != UNKNOWN:
                yield owner

    def _called(self, namespace: str, name: str) -> NamedEndpoint | None:
        """A pod goes before a workload of that name, of whose pods the first by name is asked
        for, and one of this host before others.
        """
        some = [who for who in self._everybody() if who.namespace == namespace]
        pod = next((who for who in some if who.name == name), None)
        if pod is not None:
            return pod
        of_workload = [who for who in some if who.workload == name]
        return min(of_workload, key=lambda w: (isinstance(w, Owner), w.name), default=None)

    def _called_plainly(self, name: str) -> NamedEndpoint | None:
        """Units, containers and nodes need no namespace."""
        named = (who for who in self._everybody() if who.name == name)
        return next((who for who in named if self._is_no_pod(who)), None)

    def _is_no_pod(self, who: NamedEndpoint) -> bool:
        return self._party(who).kind in (HOST, NODE)

    def _nobody(self, text: str) -> PodtallyError:
        namespace, slash, name = text.partition("/")
        for owner in self._held:
            if owner.kind == _SERVICE and (owner.namespace, owner.name) == (namespace, name):
                return _is_service(owner)
        what = f"nobody is known here by the name {text[:100]!r}"
        if not slash:
            plain = {_HOST_NAME, *(who.name for who in self._everybody() if self._is_no_pod(who))}
            near = near_names(text, plain)
            return PodtallyError(what, f"write NAMESPACE/POD, NAMESPACE/WORKLOAD, or {near}")
        named = [who for who in self._everybody() if who.namespace]
        told = {(who.namespace, each) for who in named for each in _names_of(who)}
        there = near_names(text, (f"{space}/{each}" for space, each in told if space == namespace))
        if there:
            return PodtallyError(what, f"there are {there}")
        spaces = near_names(namespace, (space for space, _ in told))
        return PodtallyError(what, f"there are the namespaces {spaces}" if spaces else _SEE)

    # -- as policies see them -------------------------------------------------------------

    def _party(self, who: NamedEndpoint) -> PolicyEndpoint:
        if isinstance(who, Owner):
            return self._of_owner(who)
        places = self._places(who.namespace, who.node)
        party = of_endpoint(who, places)
        if party.kind == HOST and party.host_network:
            return party._replace(node_labels=places.node_labels(party.node))
        return party

    def _of_owner(self, owner: Owner) -> PolicyEndpoint:
        return of_owner(owner, self._places(owner.namespace, owner.node))

    def _places(self, namespace: str, node: str) -> ClusterLabels:
        """As far as one party needs them: each entry is read at once."""
        cluster = self._cluster
        if cluster is None:
            return NO_CLUSTER_LABELS
        node = node or self._node_name
        of_namespace, of_node = cluster.namespace_labels(namespace), cluster.node_labels(node)
        return ClusterLabels(
            self._node_name,
            {} if of_namespace is None else {namespace: of_namespace},
            {} if of_node is None else {node: of_node},
            known=True,
        )


def _id(who: NamedEndpoint) -> tuple[str, ...]:
    return (who.uid,) if who.uid else (who.namespace, who.name)


def _names_of(who: NamedEndpoint) -> Iterable[str]:
    return filter(None, (who.name, who.workload))


def _is_service(owner: Owner) -> PodtallyError:
    return PodtallyError(
        f"{owner.namespace}/{owner.name} is a Service, and policies see the pods behind it",
        "name one of them, and its own port",
    )


def _is_link_local(address: int) -> bool:
    return any(address >> (128 - bits) == first >> (128 - bits) for first, bits in _LINK_LOCAL)


def _one_a_family(addresses: Iterable[int]) -> tuple[int, ...]:
    """None if there are several of a family: nobody can tell which one would be used."""
    mine = _ordered(each for each in addresses if not _is_link_local(each))
    return mine if len(mine) == len(set(map(family_of, mine))) else ()


def _ordered(addresses: Iterable[int]) -> tuple[int, ...]:
    """IPv4 first."""
    return tuple(sorted(set(addresses), key=lambda each: (family_of(each) != IPV4, each)))

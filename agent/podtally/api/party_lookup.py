# SPDX-License-Identifier: Apache-2.0
"""Finds the endpoints that a query names, in what the running agent knows.

Called from HTTP threads: it reads tables that are replaced as a whole, and single entries of
what the main thread writes.
"""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from podtally.api.name_lookup import KnownName, find, unknown_endpoint
from podtally.errors import PodtallyError
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.local.directory import Directory
from podtally.identity.model import UNKNOWN, Endpoint, Owner, host_owner
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import IPV4, family_of
from podtally.policy.endpoints import of_endpoint, of_owner
from podtally.policy.model import HOST, NODE, PolicyEndpoint

_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1
_HOST_NAME = "host"
_SERVICE = "service"
# RFC 3927, RFC 4291 2.5.6: valid on one link only.
_LINK_LOCAL = ((0xFFFFA9FE << 16, 112), (0xFE80 << 112, 10))

NamedEndpoint = Endpoint | Owner


class PartyLookup:
    """Names and addresses known at one moment: endpoints of this host, owners of addresses."""

    def __init__(self, directory: Directory, node_name: str, now_ns: int) -> None:
        self._cluster = directory.cluster
        self._node_name = node_name
        self._now_ns = now_ns
        self._names = directory.names
        self._gone = {r.ifindex for r in list(directory.interface_endpoints()) if r.gone_ns}

    def find(self, text: str) -> PolicyEndpoint:
        """Return the endpoint of NAMESPACE/POD, NAMESPACE/WORKLOAD, an address, or the plain
        name of a unit, container or node.

        PodtallyError if it is unknown, or a Service: policies apply to the pods behind it.
        """
        address = parse_address(text)
        if address is not None:
            return self._at(address)
        if text == _HOST_NAME:
            host = self._of_owner(host_owner(self._node_name))
            return host._replace(ips=self._host_addresses())
        namespace, slash, name = text.partition("/")
        found = find(namespace, name, self._known) if slash else self._by_plain_name(text)
        if found is None:
            raise self._unknown(text)
        return self._policy_endpoint(found)._replace(ips=self._addresses_of(found))

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
        """Owners that have addresses now, with these addresses."""
        rows, owners = self._names.addresses.rows, self._names.owners
        now = (rows.from_ns <= self._now_ns) & (self._now_ns < rows.until_ns) & (rows.owner >= 0)
        held: dict[Owner, list[int]] = {}
        columns = (rows.high[now].tolist(), rows.low[now].tolist(), rows.owner[now].tolist())
        for high, low, owner in zip(*columns, strict=True):
            held.setdefault(owners[owner], []).append(high << _WORD_BITS | low)
        return held

    def _addresses_of(self, endpoint: NamedEndpoint) -> tuple[int, ...]:
        if isinstance(endpoint, Endpoint) and endpoint.host_network:
            if endpoint.node in ("", self._node_name):
                return self._host_addresses()
            return self._node_addresses(endpoint.node)
        key = _id(endpoint)
        held = self._held.items()
        return _ordered(address for owner, some in held if _id(owner) == key for address in some)

    def _node_addresses(self, node: str) -> tuple[int, ...]:
        """Return the addresses of another node."""
        texts = self._cluster.addresses_of_node(node) if self._cluster else ()
        return _one_a_family(filter(None, map(parse_address, texts)))

    def _host_addresses(self) -> tuple[int, ...]:
        owners = (owner for owner in self._held if owner.kind == _HOST_NAME)
        held = (address for owner in owners for address in self._held[owner])
        return _one_a_family(held)

    # -- by name ------------------------------------------------------------------------

    @cached_property
    def _local_endpoints(self) -> list[Endpoint]:
        """Endpoints of this host, the latest first."""
        names = self._names
        behind = [each for i, each in names.endpoints.items() if i not in self._gone]
        found = dict.fromkeys((*reversed(behind), *reversed(list(names.sockets.values()))))
        return [each for each in found if UNKNOWN not in (each.namespace, each.name)]

    @cached_property
    def _known(self) -> list[KnownName[NamedEndpoint]]:
        """Everything that has a name; of a workload's pods those of this host come first."""
        found: list[NamedEndpoint] = list(self._local_endpoints)
        if self._cluster is not None:
            found += self._cluster.host_network_pods()
        for owner in self._held:
            if owner.name and owner.kind != _SERVICE and owner.namespace != UNKNOWN:
                found.append(owner)
        return [
            KnownName(each.namespace, each.name, each.workload, isinstance(each, Owner), each)
            for each in found
        ]

    def _by_plain_name(self, name: str) -> NamedEndpoint | None:
        """Return a unit, container or node: they need no namespace."""
        named = (each.endpoint for each in self._known if each.name == name)
        return next((each for each in named if self._has_plain_name(each)), None)

    def _has_plain_name(self, endpoint: NamedEndpoint) -> bool:
        return self._policy_endpoint(endpoint).kind in (HOST, NODE)

    def _unknown(self, text: str) -> PodtallyError:
        namespace, _, name = text.partition("/")
        for owner in self._held:
            if owner.kind == _SERVICE and (owner.namespace, owner.name) == (namespace, name):
                return _is_service(owner)
        plain = (each.name for each in self._known if self._has_plain_name(each.endpoint))
        return unknown_endpoint(text, self._known, (_HOST_NAME, *plain))

    # -- as policies see them -------------------------------------------------------------

    def _policy_endpoint(self, endpoint: NamedEndpoint) -> PolicyEndpoint:
        if isinstance(endpoint, Owner):
            return self._of_owner(endpoint)
        labels = self._cluster_labels(endpoint.namespace, endpoint.node)
        found = of_endpoint(endpoint, labels)
        if found.kind == HOST and found.host_network:
            return found._replace(node_labels=labels.node_labels(found.node))
        return found

    def _of_owner(self, owner: Owner) -> PolicyEndpoint:
        return of_owner(owner, self._cluster_labels(owner.namespace, owner.node))

    def _cluster_labels(self, namespace: str, node: str) -> ClusterLabels:
        """Return the labels of one namespace and one node; each entry is read at once."""
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


def _id(endpoint: NamedEndpoint) -> tuple[str, ...]:
    return (endpoint.uid,) if endpoint.uid else (endpoint.namespace, endpoint.name)


def _is_service(owner: Owner) -> PodtallyError:
    return PodtallyError(
        f"{owner.namespace}/{owner.name} is a Service; policies apply to the pods behind it",
        "give one of these pods, and its own port",
    )


def _is_link_local(address: int) -> bool:
    return any(address >> (128 - bits) == first >> (128 - bits) for first, bits in _LINK_LOCAL)


def _one_a_family(addresses: Iterable[int]) -> tuple[int, ...]:
    """Return them, unless a family has several: which one would be used is unknown."""
    mine = _ordered(each for each in addresses if not _is_link_local(each))
    return mine if len(mine) == len(set(map(family_of, mine))) else ()


def _ordered(addresses: Iterable[int]) -> tuple[int, ...]:
    """Return the addresses, IPv4 first."""
    return tuple(sorted(set(addresses), key=lambda each: (family_of(each) != IPV4, each)))

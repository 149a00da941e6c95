# SPDX-License-Identifier: Apache-2.0
"""Find the backend behind a Service or a node port: as the connection tracker has it, or else
as far as all backends agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.identity.model import UNKNOWN, Owner, peer_labels
from podtally.identity.name_table import Names
from podtally.identity.services import BackendAddress, Services, common_backend
from podtally.ledger.connections.account import NO_PORT, PeerBackend
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections, tracked
from podtally.ledger.peers.peer_columns import NO_OWNER, PeerColumns, PeerKind, PeerKinds, owners_at

_NO_SERVICE = -1
_MAX_REMEMBERED = 1 << 16  # ports of Services and nodes
_WORD = 1 << 64
_CONTACTED = PackedFields(owner=39, port=16, protocol=8)
_BACKEND = PackedFields(service=23, owner_plus_1=24, port=16)  # NO_OWNER: 0


class ServicePort(NamedTuple):
    """A port of a Service; protocol and port are 0 if no backend serves it: clients may scan."""

    service: Owner
    protocol: int
    port: int


class ServedBy(NamedTuple):
    """What serves a Service's port."""

    kind: int  # number of the PeerKind
    final: bool
    owner: int
    address: int  # 0: differs between backends, or the tracker knows it
    port: int


class _Remembered:
    """Results that hold until names or Services change."""

    def __init__(self, of: tuple[Names, Services] | None) -> None:
        self.of = of
        self.ports: list[ServicePort] = []
        self.port_numbers: dict[ServicePort, int] = {}
        self.contacted: dict[int, int] = {}  # index in ``ports``, or _NO_SERVICE, by _CONTACTED
        self.served_by: dict[int, ServedBy] = {}  # by _BACKEND


class ServiceBackends:
    def __init__(self, kinds: PeerKinds) -> None:
        self._kinds = kinds
        self._known = _Remembered(None)

    def __len__(self) -> int:
        """Return how many Service ports are told apart."""
        return len(self._known.ports)

    def put(
        self,
        peers: PeerColumns,
        rows: NDArray[np.int64],
        flows: NewConnections,
        context: EpochContext,
    ) -> None:
        """Replace the peers in ``rows`` that are Services by the backends of their ``flows``."""
        service = self._contacted(flows.key, peers.owner[rows], context)
        chosen = np.flatnonzero(service != _NO_SERVICE)
        if not len(chosen):
            return
        backends = self._backends(service[chosen], flows.take(chosen), context)
        for column, part in zip(peers[1:], backends[1:], strict=True):
            column[rows[chosen]] = part

    def _contacted(
        self, key: NDArray[np.void], owner: NDArray[np.int64], context: EpochContext
    ) -> NDArray[np.int64]:
        """Return the Service ports contacted by a Service's address, or by a node's and its
        node port: indexes, or _NO_SERVICE. (n,)
        """
        full = len(self._known.contacted) > _MAX_REMEMBERED
        if full or self._known.of != (context.names, context.services):
            self._known = _Remembered((context.names, context.services))
        packed = _CONTACTED.pack(owner=owner, port=key["remote_port"], protocol=key["protocol"])
        different, place = distinct(packed)
        numbers = [self._port_number(each, context) for each in different.tolist()]
        return np.array(numbers, np.int64)[place]

    def _port_number(self, packed: int, context: EpochContext) -> int:
        known = self._known
        number = known.contacted.get(packed)
        if number is None:
            number = known.contacted[packed] = self._new_port(packed, context)
        return number

    def _new_port(self, packed: int, context: EpochContext) -> int:
        known, contacted = self._known, _CONTACTED.unpack(packed)
        protocol, port = contacted["protocol"], contacted["port"]
        service: Owner | None = context.names.owners[contacted["owner"]]
        if service is not None and service.kind != "service":
            service = context.services.nodeport(protocol, port)
        if service is None:
            return _NO_SERVICE
        if not context.services.backends((service.namespace, service.name), (protocol, port)):
            protocol = port = 0
        service_port = ServicePort(service, protocol, port)
        number = known.port_numbers.setdefault(service_port, len(known.ports))
        if number == len(known.ports):
            known.ports.append(service_port)
        return number

    def _backends(
        self, service: NDArray[np.int64], flows: NewConnections, context: EpochContext
    ) -> PeerColumns:
        translated = tracked(flows.key, context)
        changed = translated.found & (translated.address != flows.key["remote_address"]).any(axis=1)
        backend = owners_at(context.names, translated.address, flows.at_ns)
        packed = _BACKEND.pack(
            service=service,
            owner_plus_1=np.where(changed, backend, NO_OWNER) + 1,
            port=np.where(changed, translated.port, NO_PORT),
        )
        different, place = distinct(packed)
        found = [self._served_by(each, context) for each in different.tolist()]
        address = np.array([divmod(each.address, _WORD) for each in found], np.uint64)[place]
        address[changed] = translated.address[changed].byteswap()
        return PeerColumns(
            kinds=self._kinds.values,
            kind=np.array([each.kind for each in found], np.int64)[place],
            final=np.array([each.final for each in found], np.bool_)[place],
            owner=np.array([each.owner for each in found], np.int64)[place],
            address=address,
            port=np.array([each.port for each in found], np.int64)[place],
        )

    def _served_by(self, packed: int, context: EpochContext) -> ServedBy:
        known = self._known.served_by
        found = known.get(packed)
        if found is None:
            fields = _BACKEND.unpack(packed)
            contacted = self._known.ports[fields["service"]]
            owner, port = fields["owner_plus_1"] - 1, fields["port"]
            if owner == NO_OWNER:
                found = self._common(contacted, context)
            else:
                backend = context.names.owners[owner]
                kind = self._kinds.number(_kind(contacted.service, backend, port))
                found = ServedBy(kind, backend.final, owner, 0, port)
            known[packed] = found
        return found

    def _common(self, contacted: ServicePort, context: EpochContext) -> ServedBy:
        """Return what is true whichever backend was picked."""
        service, protocol, port = contacted
        name = (service.namespace, service.name)
        backends = context.services.backends(name, (protocol, port))
        owners = _owners_now(backends, context.names, context.now_ns)
        common = common_backend(backends, lambda address: context.names.owners[owners[address]])
        if common is None:
            kind = self._kinds.number(_kind(service, None, NO_PORT))
            return ServedBy(kind, True, NO_OWNER, 0, NO_PORT)
        kind = self._kinds.number(_kind(service, common.owner, common.port))
        owner = owners.get(common.address, NO_OWNER)
        return ServedBy(kind, True, owner, common.address, common.port)


def _kind(service: Owner, backend: Owner | None, port: int) -> PeerKind:
    """Return a Service's kind; its scope is that of its backend."""
    peer = peer_labels(service)
    if backend is None:
        return PeerKind(peer, PeerBackend("", UNKNOWN, port))
    return PeerKind(
        peer._replace(scope=backend.scope), PeerBackend(backend.namespace, backend.workload, port)
    )


def _owners_now(backends: Sequence[BackendAddress], names: Names, now_ns: int) -> dict[int, int]:
    """Return indexes in ``Names.owners``, by address."""
    words = np.array([divmod(each.address, _WORD) for each in backends], np.uint64).reshape(-1, 2)
    found = names.look_up(words[:, 0], words[:, 1], np.full(len(backends), now_ns))
    return dict(zip((backend.address for backend in backends), found.tolist(), strict=True))

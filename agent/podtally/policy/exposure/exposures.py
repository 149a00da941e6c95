# SPDX-License-Identifier: Apache-2.0
"""Which pods are declared to be exposed to the outside, asked for many connections at once.

What is outside, and what becomes of traffic that nothing declares, is the ledger's to say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.services import BackendAddress, Services
from podtally.kube.ports import PROTOCOLS
from podtally.policy.exposure.controllers import ControllerPods
from podtally.policy.exposure.declarations import (
    DeclaredExposure,
    ExposureDeclaration,
    find_declarations,
)
from podtally.policy.exposure.table import NOTHING, FirstMatchTable, TableRows, concat_rows
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.vector.addresses import Addresses

# A word is a protocol, a port and, of what a controller may send, the controller's class. Ports
# have bits to spare: numbers beyond them, which stand for what is not known, are no one's.
_PORT_SHIFT, _CLASS_SHIFT = np.uint64(8), np.uint64(40)


@dataclass(frozen=True, eq=False)
class Exposure:
    """Immutable. Indexes are places in ``declarations`` and ``certain``; NOTHING is -1."""

    declarations: Sequence[ExposureDeclaration]
    certain: NDArray[np.bool_]  # False: an Ingress that cannot be read may declare it
    _declared: FirstMatchTable
    _controllers: FirstMatchTable  # to classes: controllers of the same Ingresses
    _via: FirstMatchTable

    def declared(
        self, addresses: Addresses, protocol: NDArray[np.uint8], port: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """What first declares a pod's port to be exposed: indexes, or NOTHING; all are (n,).

        The port is the pod's own, as is the address: of who answers, not of a Service. Of what
        is not known (an address or a port of 0) nothing is found, which does not say that
        nothing declares it.
        """
        return self._declared.look_up(addresses, _word(protocol, port))

    def via(
        self,
        peers: Addresses,
        addresses: Addresses,
        protocol: NDArray[np.uint8],
        port: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """By which Ingress these peers, being its controller, send to a pod: as ``declared``."""
        classes = self._classes(peers).astype(np.uint64)  # of NOTHING all bits are set: none has it
        word = classes << _CLASS_SHIFT | _word(protocol, port)
        return self._via.look_up(addresses, word)

    def controls(self, peers: Addresses) -> NDArray[np.bool_]:
        """Whether these are pods of an ingress controller; (n,)."""
        found: NDArray[np.bool_] = self._classes(peers) != NOTHING
        return found

    def _classes(self, peers: Addresses) -> NDArray[np.int64]:
        return self._controllers.look_up(peers, np.zeros(len(peers.low), np.uint64))


class ExposureBuilder:
    """Makes an Exposure anew, and remembers of the last one what has not changed."""

    def __init__(self) -> None:
        self._known: tuple[list[DeclaredExposure], _ServingControllers] | None = None
        self._exposure: Exposure | None = None
        self._packed: dict[int, tuple[tuple[BackendAddress, ...], TableRows]] = {}

    def exposure(
        self,
        ingresses: Iterable[DeclaredIngress],
        services: Services,
        node_addresses: Iterable[str],
    ) -> Exposure:
        """The same object until it would say something else.

        ``node_addresses`` are those in the status of all nodes: see ``Fleets``.
        """
        found = find_declarations(ingresses, services)
        serving = _serving(found, ControllerPods(services, node_addresses))
        if self._exposure is None or self._known != (found, serving):
            self._known = found, serving
            self._exposure = self._made(found, serving)
        return self._exposure

    def _made(self, found: list[DeclaredExposure], serving: "_ServingControllers") -> Exposure:
        rows = self._rows(found)
        controllers, via = _of_controllers(rows, serving)
        unreadable = [each.declaration.unreadable for each in found]
        return Exposure(
            tuple(each.declaration for each in found),
            ~np.array(unreadable, np.bool_),
            FirstMatchTable(rows),
            FirstMatchTable(controllers),
            FirstMatchTable(via),
        )

    def _rows(self, found: list[DeclaredExposure]) -> TableRows:
        """A row a backend; of a Service's port that has the same ones still, they are kept."""
        packed = {}
        for _, backends, _ in found:
            # By its id, which is its own as long as the tuple is kept beside.
            known = self._packed.get(id(backends)) or (backends, _pack(backends))
            packed[id(backends)] = known
        self._packed = packed
        rows = concat_rows(packed[id(backends)][1] for _, backends, _ in found)
        sizes = [len(backends) for _, backends, _ in found]
        protocols = [PROTOCOLS[declaration.protocol] for declaration, _, _ in found]
        word = rows.word | np.repeat(np.array(protocols, np.uint64), sizes)
        return rows._replace(word=word, value=np.repeat(np.arange(len(found)), sizes))


def build_exposure(
    ingresses: Iterable[DeclaredIngress], services: Services, node_addresses: Iterable[str]
) -> Exposure:
    """See ``Exposures``; for who asks once."""
    return ExposureBuilder().exposure(ingresses, services, node_addresses)


class _ServingControllers(NamedTuple):
    """Which controllers serve which declarations."""

    fleets: list[frozenset[int]]  # addresses of controllers
    number: list[int]  # of the fleet, for each declaration; or NOTHING


def _serving(found: list[DeclaredExposure], fleets: ControllerPods) -> _ServingControllers:
    numbers: dict[frozenset[int], int] = {frozenset(): NOTHING}
    behind = (fleets.behind(each.addresses) for each in found)
    number = [numbers.setdefault(fleet, len(numbers) - 1) for fleet in behind]
    return _ServingControllers([fleet for fleet in numbers if fleet], number)


def _of_controllers(rows: TableRows, serving: _ServingControllers) -> tuple[TableRows, TableRows]:
    """Controllers to their classes, and for each class, to what it may send and by what.

    Two Services may have the same controller, or parts of it; the class of a controller is
    the fleets that it belongs to.
    """
    member_of: dict[int, list[int]] = {}
    for number, fleet in enumerate(serving.fleets):
        for address in fleet:
            member_of.setdefault(address, []).append(number)
    classes: dict[tuple[int, ...], int] = {}
    class_of = [classes.setdefault(tuple(each), len(classes)) for each in member_of.values()]
    high, low = _halves(member_of)
    controllers = TableRows(high, low, np.zeros(len(low), np.uint64), np.array(class_of, np.int64))
    fleet_of = np.array(serving.number, np.int64)[rows.value]
    via = []
    for its_fleets, number in classes.items():
        theirs = rows.take(np.isin(fleet_of, its_fleets))
        via.append(theirs._replace(word=theirs.word | np.uint64(number) << _CLASS_SHIFT))
    return controllers, concat_rows(via)


def _pack(backends: Sequence[BackendAddress]) -> TableRows:
    high, low = _halves(backend.address for backend in backends)
    port = np.array([backend.port for backend in backends], np.uint64)
    return TableRows(high, low, port << _PORT_SHIFT, np.zeros(len(low), np.int64))


def _halves(addresses: Iterable[int]) -> Addresses:
    data = b"".join(address.to_bytes(16, "big") for address in addresses)
    halves = np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)
    return Addresses(halves[:, 0], halves[:, 1])


def _word(protocol: NDArray[np.uint8], port: NDArray[np.int64]) -> NDArray[np.uint64]:
    packed: NDArray[np.uint64] = port.astype(np.uint64) << _PORT_SHIFT
    return packed | protocol.astype(np.uint64)

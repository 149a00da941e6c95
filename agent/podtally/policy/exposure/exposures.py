# SPDX-License-Identifier: Apache-2.0
"""Lookup of declared exposure for many connections at once.

Which peers are external, and what undeclared traffic means, is decided in ``ledger``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.packed_fields import PackedFields
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

_WORD = PackedFields(controller=24, port=17, protocol=8)  # what is looked up beside an address
_NO_CONTROLLER = 0
_NO_SUCH_PORT = 1 << 16


@dataclass(frozen=True, eq=False)
class Exposure:
    """Immutable. Indexes refer to ``declarations`` and ``certain``; NOTHING is -1."""

    declarations: Sequence[ExposureDeclaration]
    certain: NDArray[np.bool_]  # False: an Ingress that cannot be read may declare it
    _declared: FirstMatchTable
    _controllers: (
        FirstMatchTable  # addresses to classes (from 1): controllers of the same Ingresses
    )
    _via: FirstMatchTable

    def declared(
        self, addresses: Addresses, protocol: NDArray[np.uint8], port: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the first declaration of each pod port: indexes, or NOTHING; all are (n,).

        Address and port are the pod's own, not a Service's. Unknown ones (0) find nothing, which
        does not mean that nothing declares them.
        """
        return self._declared.look_up(addresses, _WORD.pack(protocol=protocol, port=_of_pods(port)))

    def via(
        self,
        peers: Addresses,
        addresses: Addresses,
        protocol: NDArray[np.uint8],
        port: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the Ingress that leads to the pod if the peer is its controller, or NOTHING."""
        classes = self._classes(peers)
        word = _WORD.pack(controller=classes, protocol=protocol, port=_of_pods(port))
        return self._via.look_up(addresses, word)

    def controls(self, peers: Addresses) -> NDArray[np.bool_]:
        """Return whether these are pods of an ingress controller; (n,)."""
        found: NDArray[np.bool_] = self._classes(peers) != _NO_CONTROLLER
        return found

    def _classes(self, peers: Addresses) -> NDArray[np.int64]:
        """Return the class of the controller that each peer is, or _NO_CONTROLLER. (n,)"""
        classes = self._controllers.look_up(peers, np.zeros(len(peers.low), np.int64))
        return np.where(classes == NOTHING, _NO_CONTROLLER, classes)


class ExposureBuilder:
    """Builds an Exposure, reusing the unchanged parts of the last one."""

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
        """Return the exposure: the same object until it changes.

        ``node_addresses`` are those in the status of all nodes: see ``ControllerPods``.
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
        """Return a row for each backend; those of an unchanged Service port are reused."""
        packed = {}
        for _, backends, _ in found:
            # By id, which is unique as long as the tuple is kept with it.
            known = self._packed.get(id(backends)) or (backends, _pack(backends))
            packed[id(backends)] = known
        self._packed = packed
        rows = concat_rows(packed[id(backends)][1] for _, backends, _ in found)
        sizes = [len(backends) for _, backends, _ in found]
        protocols = [PROTOCOLS[declaration.protocol] for declaration, _, _ in found]
        word = rows.word | np.repeat(_WORD.pack(protocol=np.array(protocols, np.int64)), sizes)
        return rows._replace(word=word, value=np.repeat(np.arange(len(found)), sizes))


def build_exposure(
    ingresses: Iterable[DeclaredIngress], services: Services, node_addresses: Iterable[str]
) -> Exposure:
    """Build an exposure once: see ``ExposureBuilder``."""
    return ExposureBuilder().exposure(ingresses, services, node_addresses)


class _ServingControllers(NamedTuple):
    """Which controllers serve which declarations."""

    fleets: list[frozenset[int]]  # addresses of controllers
    number: list[int]  # of the fleet for each declaration; or NOTHING


def _serving(found: list[DeclaredExposure], fleets: ControllerPods) -> _ServingControllers:
    numbers: dict[frozenset[int], int] = {frozenset(): NOTHING}
    behind = (fleets.behind(each.addresses) for each in found)
    number = [numbers.setdefault(fleet, len(numbers) - 1) for fleet in behind]
    return _ServingControllers([fleet for fleet in numbers if fleet], number)


def _of_controllers(rows: TableRows, serving: _ServingControllers) -> tuple[TableRows, TableRows]:
    """Return controllers with their classes, and the rows that each class may send to.

    Two Services may share controller pods; the class of a pod is the set of its fleets.
    """
    member_of: dict[int, list[int]] = {}
    for number, fleet in enumerate(serving.fleets):
        for address in fleet:
            member_of.setdefault(address, []).append(number)
    classes: dict[tuple[int, ...], int] = {}
    class_of = [classes.setdefault(tuple(each), len(classes) + 1) for each in member_of.values()]
    high, low = _halves(member_of)
    controllers = TableRows(high, low, np.zeros(len(low), np.int64), np.array(class_of, np.int64))
    fleet_of = np.array(serving.number, np.int64)[rows.value]
    via = []
    for its_fleets, number in classes.items():
        theirs = rows.take(np.isin(fleet_of, its_fleets))
        via.append(theirs._replace(word=_WORD.replace(theirs.word, controller=number)))
    return controllers, concat_rows(via)


def _pack(backends: Sequence[BackendAddress]) -> TableRows:
    high, low = _halves(backend.address for backend in backends)
    word = _WORD.pack(port=np.array([backend.port for backend in backends], np.int64))
    return TableRows(high, low, word, np.zeros(len(low), np.int64))


def _halves(addresses: Iterable[int]) -> Addresses:
    data = b"".join(address.to_bytes(16, "big") for address in addresses)
    halves = np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)
    return Addresses(halves[:, 0], halves[:, 1])


def _of_pods(port: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ports, with numbers that stand for unknown ones replaced by one that matches none."""
    return np.where((port >= 0) & (port < _NO_SUCH_PORT), port, _NO_SUCH_PORT)

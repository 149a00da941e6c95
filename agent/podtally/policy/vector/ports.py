# SPDX-License-Identifier: Apache-2.0
"""Match the ports of many rules at once, as ``reference.matching`` does for one."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import ANY_PROTOCOL, PolicyPort
from podtally.policy.reference.matching import is_every_port
from podtally.policy.vector.classes import PORT_KEY, EndpointClasses
from podtally.policy.vector.endpoints import ConnectionBatch, has_ports
from podtally.policy.vector.ragged import Indices, RaggedLists
from podtally.policy.vector.selectors import MAYBE, NO, YES, Matches, max_of_lists

_NUMBER = -1  # instead of a name's number
_PORT_BITS = 16
Word = TypeVar("Word", np.int32, np.int64)


class PortTable:
    """Numbers distinct lists of ports."""

    def __init__(self, classes: EndpointClasses) -> None:
        self._classes = classes
        self._numbers: dict[tuple[PolicyPort, ...], int] = {}
        self._starts: list[int] = []
        self._ports: list[PolicyPort] = []
        self._names: list[str] = []

    def number(self, ports: tuple[PolicyPort, ...]) -> int:
        number = self._numbers.setdefault(ports, len(self._starts))
        if number == len(self._starts):
            self._starts.append(len(self._ports))
            self._ports.extend(ports)
        return number

    def close(self) -> None:
        """Build the arrays; all lists are numbered."""
        starts = np.array([*self._starts, len(self._ports)], np.int64)
        self._lists = RaggedLists(starts[:-1], np.diff(starts))
        self._protocol = np.array([port.protocol for port in self._ports], np.int32)
        first = np.array([port.first for port in self._ports], np.int32)
        last = np.array([port.last for port in self._ports], np.int32)
        self._first, self._last = _word(self._protocol, first), _word(self._protocol, last)
        self._every = np.array([is_every_port(port) for port in self._ports], np.bool_)
        self._names = sorted({port.name for port in self._ports if port.name})
        numbers = {name: number for number, name in enumerate(self._names)}
        self._name = np.array([numbers.get(port.name, _NUMBER) for port in self._ports], np.int32)
        self._is_plain = (self._name == _NUMBER) & (self._protocol != ANY_PROTOCOL)

    def bounds(self) -> NDArray[np.int64]:
        """Return the ports at which a list or one of its names starts or ends."""
        keys = [self._classes.named(name) for name in self._names]
        named = PORT_KEY.get("port", np.concatenate([np.zeros(0, np.int64), *keys]))
        plain = _port(np.concatenate([self._first, self._last + 1]).astype(np.int64))
        return np.unique(np.concatenate([plain, named, named + 1, [1]]))

    def matches(self, numbers: Indices, batch: ConnectionBatch, rows: Indices) -> Matches:
        """Return the match of each list with the connection in its row of the batch. (n,)"""
        owner, place = self._lists.of(numbers).members()
        row = rows[owner]
        asked = _word(batch.protocol, batch.port)[row]
        within = (asked >= self._first[place]) & (asked <= self._last[place])
        found: Matches = within * np.uint8(YES)
        loose = is_port_unknown(batch)
        others = ~self._is_plain[place]
        if loose.any():
            others |= loose[row]
        some = np.flatnonzero(others)
        if len(some):
            found[some] = self._of_others(place[some], batch, row[some], loose[row[some]])
        return max_of_lists(owner, found, len(numbers))

    def _of_others(
        self, places: Indices, batch: ConnectionBatch, rows: Indices, open_: NDArray[np.bool_]
    ) -> Matches:
        """Return matches of named ports, of any protocol, or of connections with unknown ports."""
        port, wanted = batch.port[rows], self._protocol[places]
        within = (port >= _port(self._first[places])) & (port <= _port(self._last[places]))
        found: Matches = within * np.uint8(YES)
        found[open_] = np.where(self._every[places[open_]], np.uint8(YES), np.uint8(MAYBE))
        named = np.flatnonzero(self._name[places] != _NUMBER)
        if len(named):
            found[named] = self._of_names(
                self._name[places[named]], batch, rows[named], open_[named]
            )
        found[(wanted != batch.protocol[rows]) & (wanted != ANY_PROTOCOL)] = NO
        return found

    def _of_names(
        self,
        names: NDArray[np.int32],
        batch: ConnectionBatch,
        rows: Indices,
        open_: NDArray[np.bool_],
    ) -> Matches:
        found = np.zeros(len(names), np.uint8)
        destination = batch.destination[rows]
        asked = PORT_KEY.pack(
            number=destination, protocol=batch.protocol[rows], port=batch.port[rows]
        )
        for number in np.unique(names):
            of_name = np.flatnonzero(names == number)
            keys = self._classes.named(self._names[number])
            found[of_name] = _among(keys, asked[of_name]) * np.uint8(YES)
            loose = of_name[open_[of_name]]
            # Any of the destination's ports with this name.
            found[loose] = _among(
                PORT_KEY.prefix("protocol", keys), PORT_KEY.prefix("protocol", asked[loose])
            ) * np.uint8(MAYBE)
        found[self._classes.without_ports()[destination]] = MAYBE
        return found


def _word(protocol: NDArray[np.int32], port: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return protocol and port as one number, so that one comparison covers both. (n,)"""
    return protocol << _PORT_BITS | port


def _port(word: NDArray[Word]) -> NDArray[Word]:
    return word & (1 << _PORT_BITS) - 1


def is_port_unknown(batch: ConnectionBatch) -> NDArray[np.bool_]:
    """Return where the port is unknown. (n,)"""
    found: NDArray[np.bool_] = (batch.port == 0) & has_ports(batch.protocol)
    return found


def _among(keys: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where the keys are in ``keys``, which are sorted. (n,)"""
    if not len(keys):
        return np.zeros(len(asked), np.bool_)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    found: NDArray[np.bool_] = keys[place] == asked
    return found

# SPDX-License-Identifier: Apache-2.0
"""Reads DNS answers written by hand: the ``names`` of a test case, or of ``explain --names``.

docs/policy.md describes the format.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from podtally.dns.known_names import SEEN_LATE, Answered, KnownNames
from podtally.policy.cidr import parse_address
from podtally.policy.domain_patterns import normalise
from podtally.policy.model import PolicyEndpoint
from podtally.policy.problems import Fault
from podtally.policy.schema.decoding import convert
from podtally.yamltree.scalars import brief

_AT = 1_000_000_000.0  # of every first packet; only differences show


class _WireName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pod: str
    name: str
    ips: tuple[str, ...]
    ago: float = 1.0
    ttl: float = 30.0
    trusted: bool = True


class WrittenAnswer(NamedTuple):
    """One answer that a pod got."""

    pod: str  # namespace/name
    addresses: tuple[int, ...]
    answered: Answered


class WrittenNames(NamedTuple):
    answers: tuple[WrittenAnswer, ...] = ()
    missing: int = 0  # bits of ``KnownNames.missing``

    def known(self, source: PolicyEndpoint, address: int) -> KnownNames:
        """Return the names by which the source found the address."""
        found = (each.answered for each in self._of(source) if address in each.addresses)
        latest = {(a.name, a.trusted): a for a in sorted(found, key=lambda a: a.answered)}
        return KnownNames(tuple(latest.values()), _AT, self.missing)

    def addresses(self, source: PolicyEndpoint, name: str) -> tuple[int, ...]:
        """Return the addresses that the source got for a name, those of the latest answer first."""
        wanted = normalise(name)
        found = [each for each in self._of(source) if each.answered.name == wanted]
        found.sort(key=lambda each: -each.answered.answered)
        return tuple(dict.fromkeys(ip for each in found for ip in each.addresses))

    def _of(self, source: PolicyEndpoint) -> Iterator[WrittenAnswer]:
        pod = f"{source.namespace}/{source.name}"
        return (each for each in self.answers if each.pod == pod)


def read_names(given: Iterable[Any], complete: bool) -> tuple[WrittenNames, list[Fault]]:
    """Read a list of answers; ``complete``: the pods had no others."""
    answers: list[WrittenAnswer] = []
    faults: list[Fault] = []
    for index, item in enumerate(given):
        read = _answer(item)
        if isinstance(read, Fault):
            faults.append(read._replace(path=("names", index, *read.path)))
        else:
            answers.append(read)
    return WrittenNames(tuple(answers), 0 if complete else SEEN_LATE), faults


def _answer(item: Any) -> WrittenAnswer | Fault:
    wire = convert(item, _WireName)
    if isinstance(wire, Fault):
        return wire
    addresses = []
    for text in wire.ips:
        address = parse_address(text)
        if address is None:
            return Fault(("ips",), f"invalid address {brief(text)}")
        addresses.append(address)
    if wire.ago < 0 or wire.ttl < 0:
        return Fault((), "ago and ttl are seconds, not negative")
    at = _AT - wire.ago
    answered = Answered(normalise(wire.name), at, at + wire.ttl, wire.trusted)
    return WrittenAnswer(wire.pod, tuple(addresses), answered)

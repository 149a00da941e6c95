# SPDX-License-Identifier: Apache-2.0
"""Finds what the agent saw of an endpoint's DNS, for explanations.

Called from HTTP threads: it reads tables that are replaced as a whole.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.known_names import NO_NAMES, OTHER_NODE, KnownNames
from podtally.dns.peer_naming import ALWAYS_LATE, NO_DOMAIN_INPUTS, SEEN_ALL, DomainInputs
from podtally.dns.tracker import RecentQuery
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS
from podtally.identity.local.directory import Directory
from podtally.kernel.captured import HOST as HOST_DNS
from podtally.policy.domain_patterns import normalise
from podtally.policy.endpoints import of_endpoint
from podtally.policy.model import HOST, PolicyEndpoint
from podtally.policy.reference.engine import is_itself

_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1


class SeenDns(NamedTuple):
    """What is known of DNS at one moment."""

    inputs: DomainInputs = NO_DOMAIN_INPUTS
    late: Mapping[int, int] = {}  # interfaces in use before they were watched: since when, ns
    recent: tuple[RecentQuery, ...] = ()  # the latest questions


class DnsLookup:
    """The DNS of one endpoint as of ``now_ns`` (CLOCK_MONOTONIC)."""

    def __init__(
        self, seen: SeenDns, directory: Directory, source: PolicyEndpoint, now_ns: int
    ) -> None:
        self._seen = seen
        self._now_ns = now_ns
        self._ifindexes = tuple(_interfaces_of(source, directory))

    def known(self, address: int) -> KnownNames:
        """Return the names by which the endpoint would find the address now."""
        inputs = self._seen.inputs
        if not inputs.is_on or not address:
            return NO_NAMES
        if not self._ifindexes:
            return KnownNames(missing=OTHER_NODE)
        count = len(self._ifindexes)
        endpoints = np.array(self._ifindexes, np.int64)
        words = np.array([divmod(address, _WORD + 1)] * count, np.uint64).reshape(count, 2)
        times = np.full(count, self._now_ns, np.int64)
        found = inputs.table.find(endpoints, words, times, inputs.trusted)
        doubts = inputs.table.doubts
        missing = doubts.at(endpoints, times) | np.uint8(inputs.missing)
        missing |= doubts.seen_late(endpoints, self._late_ns(), times)
        candidates = inputs.table.candidates(
            found, times, missing, inputs.trusted, inputs.wall_offset
        )
        each = [candidates.known(row) for row in range(count)]
        answers = tuple(answer for one in each for answer in one.answers)
        return KnownNames(answers, each[0].at, int(np.bitwise_or.reduce(missing)))

    def addresses(self, name: str) -> tuple[int, ...]:
        """Return the addresses that the endpoint got for a name, those of the last answer first."""
        table, wanted = self._seen.inputs.table, normalise(name)
        number = table.texts.number(wanted)
        if number < 0:
            return ()
        records = table.records
        rows = records["name"] == number
        rows &= np.isin(records["endpoint"], self._ifindexes)
        some: NDArray[np.void] = records[rows]
        some = some[np.argsort(-some["at_ns"], kind="stable")]
        found = (high << _WORD_BITS | low for high, low in some["address"].tolist())
        return tuple(dict.fromkeys(found))

    def _late_ns(self) -> NDArray[np.int64]:
        late = {**self._seen.late, HOST_DNS: ALWAYS_LATE}
        return np.array([late.get(each, SEEN_ALL) for each in self._ifindexes], np.int64)


def _interfaces_of(source: PolicyEndpoint, directory: Directory) -> Iterator[int]:
    """Yield the interfaces that carry the endpoint's DNS."""
    if source.host_network or (source.kind == HOST and source.unit):
        yield HOST_DNS
        return
    names = directory.names
    for resident in list(directory.interface_endpoints()):
        if not resident.gone_ns:
            endpoint = of_endpoint(names.endpoint(resident.ifindex), NO_CLUSTER_LABELS)
            if is_itself(endpoint, source):
                yield resident.ifindex

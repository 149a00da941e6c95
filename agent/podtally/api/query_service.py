# SPDX-License-Identifier: Apache-2.0
"""Answers who lives here, who has an address, and why policies let a connection pass or not,
from what the last epoch was booked by.

Called from HTTP threads while the main thread works: it reads values that are replaced
whole, and never changes any.
"""

import datetime
import time
from collections.abc import Callable

import numpy as np

from podtally.api.explanation import explain_connection, parse_port
from podtally.api.party_lookup import PartyLookup
from podtally.api.schema import (
    AddressOwner,
    CandidateDeletion,
    CandidatePolicy,
    EndpointRow,
    Explanation,
)
from podtally.identity.directory import Directory
from podtally.identity.interface_endpoints import InterfaceEndpoint, address_number
from podtally.identity.model import FOREVER, Claim, Endpoint
from podtally.policy.cluster.model import connection_ends
from podtally.policy.load.candidates import has_candidates, missing_deletions, with_candidates
from podtally.policy.load.policy_sources import DeclaredPolicies

_WORD = (1 << 64) - 1


class QueryService:
    """``export.api.Answers`` over one directory; ``declared`` gives what was asked for last."""

    def __init__(self, directory: Directory, declared: Callable[[], DeclaredPolicies]) -> None:
        self._directory = directory
        self._declared = declared
        self._node_name = directory.places().node_name  # does not change

    def endpoints(self) -> list[EndpointRow]:
        names = self._directory.names
        rows = [
            _row(resident, names.endpoint(resident.ifindex))
            for resident in list(self._directory.residents())
            if not resident.gone_ns
        ]
        sockets = [_socket(endpoint) for endpoint in dict.fromkeys(names.sockets.values())]
        return sorted(rows, key=lambda row: row.ifindex) + sorted(
            sockets, key=lambda row: (row.namespace, row.pod)
        )

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        """Who has it and had it; where nobody has, the network that it is of, if it has a name."""
        claims = self._directory.book.claims(address_number(address))
        if at_wall is not None:
            at_ns = int((at_wall - time.time()) * 1e9) + time.monotonic_ns()
            claims = [claim for claim in claims if claim.from_ns <= at_ns < claim.until_ns]
        return [_held(claim) for claim in claims] or self._of_network(address)

    def explain(self, source: str, destination: str, port: str) -> Explanation:
        port_number, protocol = parse_port(port)
        declared = self._declared()
        known = PartyLookup(self._directory, self._node_name, time.monotonic_ns())
        asked = connection_ends(known.party(source), known.party(destination)).question(
            protocol, port_number
        )
        would = with_candidates(declared) if has_candidates(declared) else ()
        return explain_connection(asked, declared.policies, would)

    def candidates(self) -> list[CandidatePolicy]:
        """Each once; a text that cannot be read stands for two, of pods and of hosts."""
        told = [
            CandidatePolicy(each.kind, each.namespace, each.name, each.unreadable)
            for each in self._declared().candidates
        ]
        return list(dict.fromkeys(told))

    def deletions(self) -> list[CandidateDeletion]:
        declared = self._declared()
        missing = set(missing_deletions(declared))
        return [CandidateDeletion(*name, name not in missing) for name in declared.deleted]

    def stale_candidates(self) -> list[str]:
        return list(self._declared().stale_candidates)

    def _of_network(self, address: str) -> list[AddressOwner]:
        networks = self._directory.names.networks
        high, low = (
            np.array([word], np.uint64) for word in divmod(address_number(address), _WORD + 1)
        )
        owner = networks.owners[int(networks.ranges.look_up(high, low)[0])]
        if not owner.name:
            return []
        return [AddressOwner(owner.kind, owner.namespace, owner.name, owner.workload, owner.scope)]


def _row(resident: InterfaceEndpoint, endpoint: Endpoint) -> EndpointRow:
    return EndpointRow(
        resident.interface,
        resident.ifindex,
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        endpoint.workload_kind,
        endpoint.source,
        _wall(resident.appeared_ns),
        [held.address for held in resident.addresses if held.until_ns == FOREVER],
        endpoint.uid,
        dict(endpoint.labels),
        not endpoint.final,
    )


def _socket(endpoint: Endpoint) -> EndpointRow:
    """Who has sockets of the host itself is behind no interface of its own."""
    return EndpointRow(
        "",
        0,
        endpoint.namespace,
        endpoint.name,
        endpoint.workload,
        endpoint.workload_kind,
        endpoint.source,
        "",
        [],
        endpoint.uid,
        dict(endpoint.labels),
        not endpoint.final,
    )


def _held(claim: Claim) -> AddressOwner:
    owner = claim.owner
    return AddressOwner(
        owner.kind,
        owner.namespace,
        owner.name,
        owner.workload,
        owner.scope,
        _wall(claim.from_ns),
        "" if claim.until_ns == FOREVER else _wall(claim.until_ns),
    )


def _wall(at_ns: int) -> str:
    """RFC 3339, in UTC; "" for what was before this host was up."""
    if at_ns <= 0:
        return ""
    seconds = time.time() + (at_ns - time.monotonic_ns()) / 1e9
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

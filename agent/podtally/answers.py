"""Answers who lives here and who has an address, from what the last epoch was booked by.

Called from HTTP threads while the main thread works: it reads values that are replaced
whole, and never changes any.
"""

import datetime
import time

import numpy as np

from podtally.export.api import EndpointRow, Held
from podtally.identity.directory import Directory
from podtally.identity.model import FOREVER, Claim, Endpoint
from podtally.identity.residents import Resident, number

_WORD = (1 << 64) - 1


class Answering:
    """``export.api.Answers`` over one directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

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

    def resolve(self, address: str, at_wall: float | None) -> list[Held]:
        """Who has it and had it; where nobody has, the network that it is of, if it has a name."""
        claims = self._directory.book.claims(number(address))
        if at_wall is not None:
            at_ns = int((at_wall - time.time()) * 1e9) + time.monotonic_ns()
            claims = [claim for claim in claims if claim.from_ns <= at_ns < claim.until_ns]
        return [_held(claim) for claim in claims] or self._of_network(address)

    def _of_network(self, address: str) -> list[Held]:
        networks = self._directory.names.networks
        high, low = (np.array([word], np.uint64) for word in divmod(number(address), _WORD + 1))
        owner = networks.owners[int(networks.ranges.look_up(high, low)[0])]
        if not owner.name:
            return []
        return [Held(owner.kind, owner.namespace, owner.name, owner.workload, owner.scope)]


def _row(resident: Resident, endpoint: Endpoint) -> EndpointRow:
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


def _held(claim: Claim) -> Held:
    owner = claim.owner
    return Held(
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

# SPDX-License-Identifier: Apache-2.0
"""Find the accounts of attributed connections; the loops are over what differs in a label."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.identity.model import UNKNOWN_ENDPOINT
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.account_groups import AccountGroups
from podtally.ledger.attribution.local_endpoints import LocalEndpoint, LocalEndpointFinder
from podtally.ledger.connections.account import GROUP_PORT, NO_PORT, Account
from podtally.ledger.domains.domain_shares import DomainShares
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.peers.peer_columns import UNKNOWN_PEER, PeerColumns, PeerKind
from podtally.ledger.verdicts.verdicts import VerdictStage

_MULTICAST = PackedFields(endpoint=55, protocol=8)


class AccountInput(NamedTuple):
    """Attributed connections; index i of every array is the same one."""

    endpoint: NDArray[np.int64]  # index in ``LocalEndpointFinder.endpoints``
    peers: PeerColumns
    judgement: NDArray[np.int64]
    key: NDArray[np.void]
    opened: NDArray[np.uint8]  # INITIATOR_*


class AccountLookup:
    """``by_pod``: pods take the place of workloads."""

    def __init__(
        self,
        interfaces: Interfaces,
        accounts: AccountTable,
        endpoints: LocalEndpointFinder,
        verdicts: VerdictStage,
        by_pod: bool,
    ) -> None:
        self._interfaces = interfaces
        self._accounts = accounts
        self._endpoints = endpoints
        self._verdicts = verdicts
        self._by_pod = by_pod
        self.domains = DomainShares()
        self.forget()

    def forget(self) -> None:
        self._groups = AccountGroups()

    def is_full(self) -> bool:
        return self._groups.is_full()

    def of(self, given: AccountInput, now_ns: int) -> NDArray[np.int64]:
        """Return the accounts of connections, which are made if they are new. (n,)"""
        known, kinds = self._groups, given.peers.kinds
        peer, late = (given.peers.kind, given.judgement), ~given.peers.final
        packed = known.pack(given.endpoint, peer, late, given.key, given.opened)
        groups, place = distinct(packed)
        new = ~known.knows(groups)
        if new.any():
            groups[new], replaced = known.shared(groups[new], kinds, self._accounts.shares)
            self._accounts.limited += replaced
            fresh = np.unique(groups[new])
            fresh = fresh[~known.knows(fresh)]
            made = (self._account(each, kinds) for each in fresh.tolist())
            known.add(fresh, [self._accounts.index_of(each, now_ns) for each in made])
        return known.accounts(groups)[place]

    def of_multicast(
        self, endpoint: NDArray[np.int64], protocol: NDArray[np.uint8], now_ns: int
    ) -> NDArray[np.int64]:
        """Return the accounts of what came to multicast and broadcast addresses: one for each
        workload and protocol, since it is unknown which receivers have joined. (n,)
        """
        different, place = distinct(_MULTICAST.pack(endpoint=endpoint, protocol=protocol))
        found = []
        for each in different.tolist():
            parts = _MULTICAST.unpack(each)
            account = self._local(self._endpoints.endpoints[parts["endpoint"]])._replace(
                peer_kind="external",
                peer_workload="multicast",
                scope="private",
                protocol=parts["protocol"],
                port=GROUP_PORT,
            )
            found.append(self._accounts.index_of(account, now_ns))
        return np.array(found, np.int64)[place]

    def of_slots(
        self, slot: NDArray[np.int64], make: Callable[[int], Account], now_ns: int
    ) -> NDArray[np.int64]:
        """Return accounts of which each interface's slot has one. (n,)"""
        different, place = distinct(slot)
        found = [self._accounts.index_of(make(each), now_ns) for each in different.tolist()]
        return np.array(found, np.int64)[place]

    def _account(self, group: int, kinds: list[PeerKind]) -> Account:
        parts = self._groups.parts(group)
        local, peer = self._endpoints.endpoints[parts.endpoint], kinds[parts.kind]
        labels = UNKNOWN_PEER if parts.late else peer.peer
        account = self._local(local)
        domain = self.domains.fitting(account.namespace, account.workload, labels.domain)
        account = account._replace(
            peer_kind=labels.kind,
            peer_namespace=labels.namespace,
            peer_workload=labels.workload,
            scope=labels.scope,
            peer_domain=domain,
            nat=labels.nat,
            protocol=parts.protocol,
            port=parts.port,
            backend=peer.backend,
            judgement=self._verdicts.judgements.values[parts.judgement],
        )
        return parts.share(account)

    def _local(self, local: LocalEndpoint) -> Account:
        """Return an account with the labels of the local endpoint only."""
        endpoint = local.endpoint if local.endpoint.final else UNKNOWN_ENDPOINT
        is_pod = self._by_pod and bool(endpoint.uid)
        return Account(
            slot=local.slot,
            namespace=endpoint.namespace,
            workload=endpoint.name if self._by_pod else endpoint.workload,
            workload_kind="Pod" if is_pod else endpoint.workload_kind,
            peer_kind="",
            peer_namespace="",
            peer_workload="",
            scope="",
            protocol=0,
            port=NO_PORT,
            pod=endpoint.name if self._interfaces.host[local.slot] else "",
            endpoint=endpoint.name,
            endpoint_namespace=endpoint.namespace,
            uid=endpoint.uid,
        )

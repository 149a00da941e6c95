"""Finds the accounts of many connections at once: who is at both ends, whose port it is."""

import numpy as np
from numpy.typing import NDArray

from podtally.identity.table import Names
from podtally.ledger.accounts import Account, Accounts, server_port
from podtally.ledger.interfaces import Interfaces

_PROTOCOL_BITS = 8
_MIXED = np.dtype([("slot", "i8"), ("peer", "i8"), ("port_protocol", "i8")])
_OPAQUE = np.dtype((np.void, _MIXED.itemsize))


class Naming:
    """Over the interfaces and accounts of one ledger."""

    def __init__(self, interfaces: Interfaces, accounts: Accounts) -> None:
        self._interfaces = interfaces
        self._accounts = accounts

    def accounts_of(
        self, key: NDArray[np.void], began: NDArray[np.uint8], names: Names, now_ns: int
    ) -> NDArray[np.int64]:
        """Accounts of keys; the loop is over what differs in a label, not over flows. (n,)"""
        address = key["remote_address"].byteswap()
        port = server_port(began, key["local_port"], key["remote_port"])
        mixed = np.zeros(len(key), _MIXED)
        mixed["slot"] = self._interfaces.slots(key["ifindex"].astype(np.int64))
        mixed["peer"] = names.look_up(address[:, 0], address[:, 1])
        mixed["port_protocol"] = port << _PROTOCOL_BITS | key["protocol"]
        different, index = np.unique(mixed.view(_OPAQUE), return_inverse=True)
        accounts = [
            self._accounts.index_of(self._account(names, *entry), now_ns)
            for entry in different.view(_MIXED).tolist()
        ]
        return np.array(accounts, np.int64)[index]

    def _account(self, names: Names, slot: int, peer: int, port_protocol: int) -> Account:
        endpoint = names.endpoint(int(self._interfaces.ifindex[slot]))
        return Account(
            slot,
            endpoint.namespace,
            endpoint.workload,
            endpoint.workload_kind,
            *names.peers[peer],
            port_protocol & (1 << _PROTOCOL_BITS) - 1,
            port_protocol >> _PROTOCOL_BITS,  # arithmetic: UNKNOWN_PORT stays what it is
        )

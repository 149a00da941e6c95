# SPDX-License-Identifier: Apache-2.0
"""Find accounts of peers that are gone: no address belongs to them any more.

Without this, an endpoint that lives long would keep series for each pod that it ever met.
"""

from collections.abc import Mapping

import numpy as np

from podtally.identity.model import FOREVER, UNKNOWN
from podtally.identity.name_table import Names
from podtally.ledger.connections.account import Account

_THAT_GO = frozenset(("pod", "service", "node", "host"))  # networks outside do not

_Peer = tuple[str, str, str]  # kind, namespace, and name or workload


class FormerPeers:
    """Remembers who has addresses in one table of names."""

    def __init__(self) -> None:
        self._names: Names | None = None
        self._present: frozenset[_Peer] = frozenset()

    def among(self, accounts: Mapping[int, Account], names: Names) -> list[Account]:
        """Return the accounts of peers, or of backends behind them, that are gone."""
        if accounts and self._names is not names:
            self._names, self._present = names, _present(names)
        return [each for each in accounts.values() if self._is_gone(each)]

    def _is_gone(self, account: Account) -> bool:
        if account.peer_kind not in _THAT_GO:
            return False
        peer = (account.peer_kind, account.peer_namespace, account.peer_workload)
        if peer not in self._present:
            return True
        backend = account.backend
        if backend is None or backend.workload in ("", UNKNOWN):
            return False
        return ("pod", backend.namespace, backend.workload) not in self._present


def _present(names: Names) -> frozenset[_Peer]:
    """Return who has an address now. Peers may be labelled by workload or by pod."""
    rows = names.addresses.rows
    found = np.unique(rows.owner[rows.until_ns == FOREVER])
    owners = [names.owners[index] for index in found.tolist()]
    return frozenset(
        (each.kind, each.namespace, name) for each in owners for name in (each.workload, each.name)
    )

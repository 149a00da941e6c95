# SPDX-License-Identifier: Apache-2.0
"""Numbers the labels of the history's rows; the loops are over what differs in a label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.arrays.packed_fields import PackedFields
from podtally.identity.name_table import Names
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.connections.account import (
    APART,
    FLOODED_PORT,
    GROUP_PORT,
    NO_PORT,
    UNKNOWN_PORT,
    Account,
)
from podtally.ledger.interfaces.interface_rest import KINDS
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.recording.history_rows import (
    ACCOUNT_FLOWS,
    ACCOUNT_FORWARDED,
    ACCOUNT_WAITING,
    RowLabels,
)
from podtally.outcomes.decision import OUTCOMES

_LABEL = PackedFields(account=31, outcome=8, interface=24)


class LabelNumbers:
    """``values`` are the labels by number; ``restart`` forgets those that are not in use."""

    def __init__(self, interfaces: Interfaces, accounts: AccountTable) -> None:
        self.version = 0
        self.values: list[RowLabels] = []
        self.endpoint = np.zeros(0, np.int64)  # by label: what has a share of the rows
        self._interfaces, self._accounts = interfaces, accounts
        self._numbers: dict[RowLabels, int] = {}
        self._of_account: dict[tuple[str, int, Account], int] = {}
        self._endpoints: dict[tuple[str, ...], int] = {}
        self._names: Names | None = None
        self._interface_names: list[str] = []
        self._interfaces_version = -1

    def learn(self, names: Names) -> None:
        """Use these names for the endpoints of interfaces, and the interfaces' present names."""
        self._names = names
        self.learn_interfaces()

    def learn_interfaces(self) -> None:
        if self._interfaces_version != self._interfaces.version:
            self._interface_names = list(self._interfaces.names)
            self._interfaces_version = self._interfaces.version

    def renamed_slots(self) -> NDArray[np.int64]:
        """Return the slots of interfaces renamed since ``learn``; until the next call
        of that, rows have the earlier one. (n,)
        """
        if self._interfaces_version == self._interfaces.version:
            return np.zeros(0, np.int64)
        pairs = zip(self._interface_names, self._interfaces.names, strict=False)
        return np.array([i for i, (old, new) in enumerate(pairs) if old and old != new], np.int64)

    def of(self, accounts: NDArray[np.integer], outcomes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return the labels of accounts and outcomes, (n,) each."""
        different, place = distinct(_LABEL.pack(account=accounts, outcome=outcomes))
        found = self._accounts.at(_LABEL.get("account", different))
        numbers = []
        for each in map(_LABEL.unpack, different.tolist()):
            account = found[each["account"]]
            numbers.append(self._of(account, self.interface(account.slot), each["outcome"]))
        return np.array(numbers, np.int32)[place]

    def of_interfaces(
        self,
        accounts: NDArray[np.integer],
        outcomes: NDArray[np.uint8],
        interfaces: Sequence[str],
        which: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        """As ``of``, with the names ``interfaces[which]``. (n,)"""
        packed = _LABEL.pack(account=accounts, outcome=outcomes, interface=which)
        different, place = distinct(packed)
        found = self._accounts.at(_LABEL.get("account", different))
        numbers = []
        for each in map(_LABEL.unpack, different.tolist()):
            name = interfaces[each["interface"]]
            numbers.append(self._of(found[each["account"]], name, each["outcome"]))
        return np.array(numbers, np.int32)[place]

    def ports(
        self, accounts: NDArray[np.integer], of_connections: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Return the ports of accounts (n,); those of the connections where accounts have many."""
        different, place = distinct(accounts.astype(np.int64))
        found = self._accounts.at(different)
        shown = np.array([found[each].port for each in different.tolist()], np.int64)[place]
        is_group = shown == GROUP_PORT
        ports = np.where(shown >= UNKNOWN_PORT, shown, np.where(is_group, NO_PORT, of_connections))
        return ports.astype(np.int32)

    def interface(self, slot: int) -> str:
        """Return the name of an interface, as of ``learn``."""
        if slot < len(self._interface_names) and self._interface_names[slot]:
            return self._interface_names[slot]
        return self._interfaces.names[slot]

    def of_rest(self, slot: int, kind: int) -> int:
        """Return the label of what is no flow, of an interface; ``kind`` as in InterfaceRest."""
        labels = RowLabels(self.interface(slot), KINDS[kind])
        if self._names is not None:
            endpoint = self._names.endpoint(int(self._interfaces.ifindex[slot]))
            labels = labels._replace(
                namespace=endpoint.namespace,
                pod=endpoint.name,
                uid=endpoint.uid,
                workload=endpoint.workload,
                workload_kind=endpoint.workload_kind,
            )
        return self._number(labels)

    def restore(self, values: list[RowLabels]) -> None:
        self.values, self._numbers = [], {}
        self._of_account, self._endpoints = {}, {}
        self.endpoint = np.zeros(0, np.int64)
        self.version += 1
        for each in values:
            self._number(each)

    def _of(self, account: Account, name: str, outcome: int) -> int:
        key = (name, outcome, account)
        number = self._of_account.get(key)
        if number is None:
            labels = _labels(name, account)
            if labels.account == ACCOUNT_FLOWS:
                labels = labels._replace(outcome=OUTCOMES[outcome])
            number = self._of_account[key] = self._number(labels)
        return number

    def _number(self, labels: RowLabels) -> int:
        number = self._numbers.setdefault(labels, len(self.values))
        if number == len(self.values):
            self.values.append(labels)
            key = (labels.interface, labels.namespace, labels.pod, labels.uid)
            endpoint = self._endpoints.setdefault(key, len(self._endpoints))
            self.endpoint = np.append(self.endpoint, endpoint)
            self.version += 1
        return number


def _labels(interface: str, account: Account) -> RowLabels:
    if account.port in APART:
        if account.port == FLOODED_PORT:
            return RowLabels(interface, KINDS[0])
        if account.port != APART[0]:
            return RowLabels(interface, ACCOUNT_FORWARDED)
        return RowLabels(interface, ACCOUNT_WAITING)
    judgement = account.judgement
    return RowLabels(
        interface=interface,
        account=ACCOUNT_FLOWS,
        namespace=account.namespace,
        pod=account.endpoint,
        uid=account.uid,
        workload=account.workload,
        workload_kind=account.workload_kind,
        peer_kind=account.peer_kind,
        peer_namespace=account.peer_namespace,
        peer_workload=account.peer_workload,
        peer_domain=account.peer_domain,
        scope=account.distance,
        verdict=account.verdict,
        policy=judgement.policy,
        cause=judgement.cause,
    )

# SPDX-License-Identifier: Apache-2.0
"""Describes closed connections for the flow log."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.identity.model import Endpoint
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.attribution import Attribution
from podtally.ledger.connections.account import Account
from podtally.ledger.connections.connections import UNNAMED, ConnectionColumns
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import new_connections
from podtally.ledger.domains.peer_domains import NO_DOMAIN, PeerDomain
from podtally.ledger.interfaces.interfaces import Interfaces


class ClosedConnections(NamedTuple):
    """Closed connections with their last totals and labels."""

    columns: ConnectionColumns
    accounts: dict[int, Account]  # by columns.account
    endpoints: dict[int, Endpoint]  # by ifindex
    interfaces: dict[int, str]  # names, by ifindex
    reasons: Sequence[str] = ()  # of their verdicts
    exposures: Sequence[str] = ()  # how they are declared to be exposed, if they are
    endings: NDArray[np.uint8] = np.zeros(0, np.uint8)  # ``outcomes.decision.ENDINGS``
    # (n, 2): until the answer, and from that to its completion; NaN where it is not known
    handshake_seconds: NDArray[np.float64] = np.zeros((0, 2))
    domains: Mapping[int, PeerDomain] = MappingProxyType({})  # by columns.domain


class LedgerTables(NamedTuple):
    """The tables that the description needs."""

    interfaces: Interfaces
    accounts: AccountTable
    attribution: Attribution


def label_ended(columns: ConnectionColumns, books: LedgerTables, context: EpochContext) -> None:
    """Set the account of connections that are over where it is UNNAMED."""
    unnamed = np.flatnonzero(_has_interface(columns, books) & (columns.account == UNNAMED))
    if len(unnamed):  # without traffic since
        flows = new_connections(columns.take(unnamed))
        columns.account[unnamed] = books.attribution.attribute(flows, context, wait=False).account


def _has_interface(columns: ConnectionColumns, books: LedgerTables) -> NDArray[np.bool_]:
    """Return where the interface is known: naming must not bring back a removed one. (n,)"""
    ifindex = columns.key["ifindex"]
    return np.isin(ifindex, [i for i in np.unique(ifindex).tolist() if books.interfaces.known(i)])


def describe(
    columns: ConnectionColumns, books: LedgerTables, context: EpochContext
) -> ClosedConnections:
    """Return labelled connections with their accounts and reasons."""
    ifindex = columns.key["ifindex"]
    interfaces = np.unique(ifindex).tolist()
    there = _has_interface(columns, books)
    accounts = books.accounts.at(np.unique(columns.account))
    reasons, exposures = [""] * len(ifindex), [""] * len(ifindex)
    rows = np.flatnonzero(there)
    if len(rows):
        some = columns.take(rows)
        verdicts = [accounts[i].verdict for i in some.account.tolist()]
        words = books.attribution.explain(new_connections(some), verdicts, context)
        for row, reason, exposure in zip(rows.tolist(), *words, strict=True):
            reasons[row], exposures[row] = reason, exposure
    values = books.attribution.domains.values
    return ClosedConnections(
        columns,
        accounts,
        {i: context.names.endpoint(i) for i in interfaces},
        {i: books.interfaces.name(i) for i in interfaces},
        reasons,
        exposures,
        domains={i: values[i] for i in np.unique(columns.domain).tolist() if i > NO_DOMAIN},
    )

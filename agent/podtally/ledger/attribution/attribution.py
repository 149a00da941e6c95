# SPDX-License-Identifier: Apache-2.0
"""Attribute connections: find their endpoints, peers and verdicts, and the accounts and events
that they are booked under.

While a name may still come, a connection waits under its interface's waiting account; when
patience runs out, it is booked under `unknown`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.domain_labels import DomainLabels
from podtally.identity.name_table import Names
from podtally.ledger.accounts.accounts import AccountTable
from podtally.ledger.attribution.account_lookup import AccountInput, AccountLookup
from podtally.ledger.attribution.event_matching import EventMatcher, JudgedConnections
from podtally.ledger.attribution.local_endpoints import LocalEndpointFinder, LocalEndpoints
from podtally.ledger.attribution.name_waits import NameWaits
from podtally.ledger.attribution.ownership import FLOODED, FOREIGN, GROUP
from podtally.ledger.connections.account import UNKNOWN_PORT, flooded, forwarded, waiting
from podtally.ledger.connections.connections import (
    INITIATOR_ENDPOINT,
    INITIATOR_MASK,
    INITIATOR_PEER,
    INITIATOR_UNKNOWN,
    TCP,
    ConnectionColumns,
    Flags,
)
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.initiator import contest_mirrored, may_be_under_way
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.domains.domain_naming import DomainColumns, DomainNaming
from podtally.ledger.domains.domain_shares import DomainShares
from podtally.ledger.domains.peer_domains import NOT_LOOKED_UP, PeerDomains
from podtally.ledger.events.events import NO_EVENT, Events
from podtally.ledger.interfaces.interfaces import Interfaces
from podtally.ledger.peers.nat_rules import NatMarker, NatRules
from podtally.ledger.peers.peers import PeerFinder
from podtally.ledger.verdicts.exposed import exposures, may_be_inbound, undeclared
from podtally.ledger.verdicts.judge_input import JudgeInput, judge_input
from podtally.ledger.verdicts.verdicts import VerdictStage


class AttributedConnections(NamedTuple):
    """What connections are booked under. (n,) each"""

    account: NDArray[np.int64]
    event: NDArray[np.int32]  # NO_EVENT


class ExplainedConnections(NamedTuple):
    """Texts of connections. (n,) each"""

    reasons: Sequence[str]  # of their verdicts
    exposures: Sequence[str]  # the Ingress or Service that exposes them


class AttributionSettings(NamedTuple):
    """``patience_ns``: how long a connection waits for names."""

    patience_ns: int
    events: Events
    undeclared_events: bool = False
    by_pod: bool = False  # pods take the place of workloads
    forwarders: Sequence[str] = ()  # globs of workloads that send and receive for others
    domains: DomainLabels | None = None
    nat: NatRules | None = None


class Attribution:
    """Over the interfaces and accounts of one ledger."""

    def __init__(
        self,
        interfaces: Interfaces,
        accounts: AccountTable,
        flags: Flags,
        settings: AttributionSettings,
    ) -> None:
        self.interfaces = interfaces
        self._accounts = accounts
        unparsed = flags.unparsed | flags.unparsed << flags.shift
        self._unparsed = np.uint64(unparsed)
        self.verdicts = VerdictStage()
        self._peers = PeerFinder(settings.by_pod)
        self.domains = PeerDomains(settings.domains)
        self._naming = DomainNaming(interfaces, self.domains)
        self._nat = NatMarker(settings.nat)
        self._endpoints = LocalEndpointFinder(
            interfaces, self._peers, self.verdicts, flags, settings.forwarders
        )
        self.waits = NameWaits(interfaces, settings.patience_ns)
        self._lookup = AccountLookup(
            interfaces, accounts, self._endpoints, self.verdicts, settings.by_pod
        )
        self._events = EventMatcher(settings.events, self.verdicts, settings.undeclared_events)
        self._known_of: tuple[Names | None, int, int] = (None, 0, 0)

    @property
    def domain_shares(self) -> DomainShares:
        return self._lookup.domains

    def take_unknown_cgroups(self) -> set[int]:
        """Return the cgroups met since the last call that have no name."""
        return self._endpoints.take_unknown_cgroups()

    def expect(self, restored: ConnectionColumns) -> None:
        """Note what must be looked up before restored connections are attributed again."""
        self._endpoints.expect(restored.key)

    def learn(self, context: EpochContext) -> None:
        """Update names and policies, without attributing any connection."""
        self.verdicts.learn(context)
        self._endpoints.learn(context.names)
        of = (context.names, self._accounts.closed, self.verdicts.version)
        is_full = self._endpoints.is_full() or self._lookup.is_full() or self._peers.is_full
        if self._known_of != of or is_full:
            self._known_of = of
            if self._peers.is_full:
                self._peers.forget()
            self._endpoints.forget()
            self._lookup.forget()

    def attribute(
        self, flows: NewConnections, context: EpochContext, wait: bool = True
    ) -> AttributedConnections:
        """Return the accounts and events of connections.

        ``wait`` is False for those that are booked already, and cannot wait any more.
        """
        self.learn(context)
        slot = self.interfaces.slots(flows.key["ifindex"].astype(np.int64))
        local = self._endpoints.find(slot, flows, context)
        contest_mirrored(flows, local.ownership == FOREIGN)
        peers = self._peers.find(flows, context)
        domains = self._naming.find(flows, slot, peers, self._peers.kinds, context)
        peers = self._nat.mark(flows, domains.peers, self._peers.kinds, context)
        domains = domains._replace(peers=peers)
        found = AttributedConnections(
            np.empty(len(slot), np.int64), np.full(len(slot), NO_EVENT, np.int32)
        )
        is_flooded = local.ownership == FLOODED
        special = local.forwarded | is_flooded
        if wait:
            waits = self.waits.waits(local, domains, flows, slot, context.now_ns)
            if waits.any():
                flows.domain[waits] = NOT_LOOKED_UP
                found.account[waits] = self._lookup.of_slots(slot[waits], waiting, context.now_ns)
                special = special | waits
        for rows, make in ((local.forwarded, forwarded), (is_flooded, flooded)):
            if rows.any():
                found.account[rows] = self._lookup.of_slots(slot[rows], make, context.now_ns)
        multicast = np.flatnonzero(~special & (local.ownership == GROUP))
        if len(multicast):
            found.account[multicast] = self._lookup.of_multicast(
                local.endpoint[multicast], flows.key["protocol"][multicast], context.now_ns
            )
            special = special | (local.ownership == GROUP)
        if not special.any():
            return self._judged(flows, local, domains, context)
        rest = np.flatnonzero(~special)
        if len(rest):
            some = domains.take(rest)
            parts = (flows.take(rest), local.take(rest), some)
            found.account[rest], found.event[rest] = self._judged(*parts, context)
        return found

    def explain(
        self, flows: NewConnections, verdicts: Sequence[str], context: EpochContext
    ) -> ExplainedConnections:
        """Explain the ``verdicts`` (n,) given before, as far as they still hold."""
        self.learn(context)
        slot = self.interfaces.slots(flows.key["ifindex"].astype(np.int64))
        local = self._endpoints.find(slot, flows, context)
        peers = self._peers.find(flows, context)
        domains = self._naming.find(flows, slot, peers, self._peers.kinds, context)
        given = self._judge_input(flows, local, domains)
        reasons = self.verdicts.reasons(given, self.verdicts.judge(given), verdicts)
        if context.exposure is None:
            return ExplainedConnections(reasons, [""] * len(reasons))
        outside = self._from_outside(given, local)
        return ExplainedConnections(reasons, exposures(given, outside, context.exposure))

    def _judged(
        self,
        flows: NewConnections,
        local: LocalEndpoints,
        domains: DomainColumns,
        context: EpochContext,
    ) -> AttributedConnections:
        """Judge connections; return their accounts and events."""
        peers = domains.peers
        given = self._judge_input(flows, local, domains)
        outside = self._from_outside(given, local)
        if context.exposure is not None:
            given = given._replace(exposed=undeclared(given, outside, context.exposure))
        verdicts = self.verdicts.judge(given)
        columns = verdicts.columns
        opened = np.where(columns.port_known, columns.opened, INITIATOR_UNKNOWN)
        to_book = AccountInput(local.endpoint, peers, verdicts.judgement, flows.key, opened)
        account = self._lookup.of(to_book, context.now_ns)
        judged = JudgedConnections(
            given=given,
            verdicts=verdicts,
            is_undecided=self.verdicts.judgements.undecided(verdicts.judgement),
            from_outside=outside,
            endpoint=local.endpoint,
            first_ns=flows.at_ns,
            server_port=np.select(
                [opened == INITIATOR_ENDPOINT, opened == INITIATOR_PEER],
                [given.peer_port, given.local_port],
                UNKNOWN_PORT,
            ),
            endpoints=self._endpoints.endpoints,
            domain=flows.domain,
            domains=self.domains.values,
        )
        return AttributedConnections(account, self._events.match(judged, context))

    def _judge_input(
        self, flows: NewConnections, local: LocalEndpoints, domains: DomainColumns
    ) -> JudgeInput:
        endpoint = self._endpoints.policy_endpoint[local.endpoint]
        names = (domains.names, domains.peer_names)
        given = judge_input(flows, endpoint, domains.peers, *names)
        may_be_unknown = np.zeros(len(flows.key), np.bool_)
        rows = np.flatnonzero(flows.initiator & INITIATOR_MASK == INITIATOR_UNKNOWN)
        if len(rows):
            may_be_unknown[rows] = self._may_be_unknown(flows.take(rows))
        return given._replace(foreign=local.ownership == FOREIGN, may_be_unknown=may_be_unknown)

    def _may_be_unknown(self, flows: NewConnections) -> NDArray[np.bool_]:
        """Return which connections without an initiator may have been opened before they were
        watched, or show neither an opening nor data. (n,)
        """
        under_way = may_be_under_way(flows.key, flows.at_ns, self.interfaces)
        is_bare = (flows.key["protocol"] == TCP) & ~flows.has_data
        is_bare &= flows.seen & self._unparsed == 0
        found: NDArray[np.bool_] = under_way & (flows.initiator == INITIATOR_UNKNOWN) | is_bare
        return found

    def _from_outside(self, given: JudgeInput, local: LocalEndpoints) -> NDArray[np.bool_]:
        """Return what was opened to a pod from outside the cluster. (n,)"""
        found: NDArray[np.bool_] = may_be_inbound(given.initiator)
        found &= self._endpoints.is_pod[local.endpoint]
        return found & self.verdicts.endpoints.are_outside(given.owner)

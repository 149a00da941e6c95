# SPDX-License-Identifier: Apache-2.0
"""Collects what booking an epoch needs, while its half of the table is at rest."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from podtally.kernel.account_map import AccountMap
from podtally.kernel.table import Table
from podtally.ledger.ledger import Ledger
from podtally.runtime.epoch_inputs import EpochInputs, InterfaceCounters
from podtally.runtime.extras import Extras, SavedBeside
from podtally.runtime.identity_sources import IdentitySources
from podtally.runtime.interface_counters import LastReading
from podtally.runtime.interface_events import InterfaceEvents
from podtally.runtime.name_capture import NameCapture
from podtally.runtime.trusted_resolvers import TrustedResolvers


class DomainSource(NamedTuple):
    """What domain names come from; ``accounts`` has the kernel's count of lost messages."""

    capture: NameCapture
    resolvers: TrustedResolvers
    accounts: AccountMap


class InputsCollector:
    """Over the sources of names and interfaces; all of them are read in the main thread."""

    def __init__(
        self,
        ledger: Ledger,
        sources: IdentitySources,
        interfaces: InterfaceEvents,
        domains: DomainSource,
    ) -> None:
        self._domains = domains
        self._ledger = ledger
        self._sources = sources
        self._interfaces = interfaces

    def refresh_names(self) -> None:
        """Look up what the ledger met without a name, and bring the table of names up to date."""
        self._sources.look_up_cgroups(
            self._ledger.attribution.take_unknown_cgroups(), time.monotonic_ns()
        )
        self._sources.refresh(time.monotonic_ns())

    def collect(self, table: Table, gone: Mapping[int, LastReading | None]) -> EpochInputs:
        """Return the inputs of the epoch in the half at rest.

        ``gone`` are the interfaces removed before its flip. The counters are read last.
        """
        inputs = self.collect_names(table)
        return inputs._replace(counters=self._counters(gone), gone=tuple(gone))

    def collect_names(self, table: Table) -> EpochInputs:
        """Return the inputs without counters."""
        self._sources.observe_senders(table)
        self.refresh_names()
        context = self._sources.context()
        watched = self._interfaces.watched.keys()
        collected = self._domains.capture.collect(
            self._domains.resolvers.now(context.services),
            self._domains.resolvers.senders(self._sources.directory.interface_endpoints()),
            watched,
            self._domains.accounts.lost_pieces(watched),
        )
        return EpochInputs(
            context._replace(domains=collected.inputs),
            renamed=self._sources.take_renamed(),
            observed=collected.observed,
        )

    def extras(self, own_metrics: dict[str, list[float]]) -> SavedBeside:
        """Return what the checkpoint keeps beside the ledger."""
        endpoints = self._sources.directory.interface_endpoints()
        extras = Extras(endpoints, own_metrics, self._interfaces.known_ns)
        return SavedBeside(extras, self._domains.capture.save())

    def committed(self) -> None:
        """Give back what the checkpoint has now."""
        self._domains.capture.release()

    def _counters(self, gone: Mapping[int, LastReading | None]) -> InterfaceCounters:
        balances = self._ledger.interfaces
        return self._interfaces.counters(gone, balances.unexplained())

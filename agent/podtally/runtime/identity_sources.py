# SPDX-License-Identifier: Apache-2.0
"""Brings the sources of names together: the API, the process finder, sockets, policies.

All methods belong to the main thread; the finder and the API's client have threads of their
own and put what they find into a queue.
"""

import logging
import queue
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from podtally.identity.cluster.state import Clocks
from podtally.identity.interface_endpoints import address_text, lower_word
from podtally.identity.local.claim_conflicts import ClaimConflicts, ConflictCounts
from podtally.identity.local.directory import Directory
from podtally.identity.model import UNKNOWN, UNKNOWN_ENDPOINT, Endpoint
from podtally.kernel.table import Table
from podtally.kube.model import ApiEvent, Changed, ObjectPage
from podtally.kube.source import FORBIDDEN, KubeSource
from podtally.kube.workloads import Workload, from_labels
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.netlink.conntrack import Translator
from podtally.netlink.namespaces import Namespaces
from podtally.netlink.sock_diag import SocketDiag
from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES
from podtally.policy.load.policy_sources import PolicySources
from podtally.runtime.exposure_source import ExposureSource
from podtally.runtime.policy_keeper import PolicyKeeper, kept_note
from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_hierarchies import hierarchies
from podtally.runtimes.cgroup_ids import CgroupIds, find_mount
from podtally.runtimes.name_resolver import ContainerNamed, PodNamed
from podtally.runtimes.process_finder import ProcessFinder, ProcessFound
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

HOST_EVERY_NS = 30_000_000_000  # the host's own addresses seldom change
SYNC_NS = 10_000_000_000  # for the first lists
CONTRADICTED_EVERY_NS = 5_000_000_000
REASSIGNED_NS = 10_000_000_000  # a connection that goes on under a new owner shows by then
# The owner of a cgroup that no longer exists
_GONE = cgroups.CgroupOwner("host", UNKNOWN)
_SENDER = np.dtype([("ifindex", "u8"), ("address", "u8", (2,))])

Answers = queue.SimpleQueue[ApiEvent | ProcessFound | PodNamed | ContainerNamed]


class Threads(NamedTuple):
    """Sources with threads of their own."""

    finder: ProcessFinder
    policies: PolicySources
    kube: KubeSource | None
    keeper: PolicyKeeper


class SourceState(NamedTuple):
    """For the agent's metrics; a resource never received is as old as this host's uptime."""

    ages_seconds: dict[str, float]  # by resource of the API
    objects: dict[str, int]
    errors: int  # since the start, as the next
    lists: int
    conntrack: bool
    lookups: int  # of the connection tracker, since the start, as the next
    lookups_missed: int
    unsynced: dict[str, str]  # resources of the API that are not current, and why
    contradicted: ConflictCounts  # addresses that endpoints configure and that are another's


class IdentitySources:
    """Over one directory; ``answers`` is the queue of the finder and the API's client."""

    def __init__(self, directory: Directory, answers: Answers, threads: Threads) -> None:
        self.directory = directory
        self.finder, self.policies, self.kube, self._keeper = threads
        self._answers = answers
        self._renamed: set[int] = set()
        self._cgroups = CgroupIds(find_mount())
        self._translator = Translator()
        self._diag = SocketDiag()
        self._namespaces: Namespaces | None = None
        self._host_errors = 0
        self._cgroup_trouble = Condition(log, logging.WARNING)
        self._host_trouble = Condition(log, logging.WARNING)
        self._sync_by_ns = time.monotonic_ns() + SYNC_NS
        self._next_host_ns = 0
        self._contradictions = ClaimConflicts()
        self._contradicted: ConflictCounts = {}
        self._next_contradicted_ns = 0
        self._exposure = ExposureSource()

    def start(self) -> None:
        self.policies.start()
        self._keeper.start()
        self.finder.start()
        if self.kube is not None:
            self.kube.start()

    def close(self) -> None:
        if self.kube is not None:
            self.kube.stop()
        self.finder.stop()
        self.policies.stop()
        self._keeper.stop()
        self._cgroups.close()
        self._translator.close()
        self._diag.close()
        if self._namespaces is not None:
            self._namespaces.close()

    def dead(self) -> str:
        """Return which of the threads has died; "" if none has."""
        if not self.finder.alive:
            return "the thread that finds processes has died"
        if not self.policies.alive:
            return "the thread that reads policies has died"
        for resource in self.kube.resources if self.kube is not None else ():
            if self.kube is not None and not self.kube.alive(resource):
                return f"the thread that watches {resource} has died"
        return ""

    def unsynced(self) -> dict[str, str]:
        """Return the API's resources with objects that are not current, and why."""
        kube = self.kube
        return {n: why for n in kube.resources if (why := kube.unsynced(n))} if kube else {}

    def trouble(self) -> str:
        """Return what is wrong with a thread that still runs; "" if nothing is."""
        kube = self.kube
        threads = [self.finder.trouble, self.policies.trouble, self._keeper.trouble]
        threads += map(kube.trouble, kube.resources) if kube is not None else ()
        unsynced = self.unsynced()
        if FORBIDDEN in unsynced.values() or time.monotonic_ns() > self._sync_by_ns:
            words = (f"{name} {why}" for name, why in unsynced.items())
            kept = kept_note(self.policies.kept, self._keeper.kept, time.time())
            if unsynced:
                threads.append(
                    "; ".join(filter(None, (f"the Kubernetes API: {_list(words)}", kept)))
                )
        return next(filter(None, threads), "")

    def note(self) -> str:
        """Return what an operator should know although nothing is wrong with the agent."""
        stale = self.policies.stale_files
        return f"an earlier version is in force of {_list(stale)}" if stale else ""

    def state(self) -> SourceState:
        """Return counts and ages for the agent's own metrics."""
        kube, cluster = self.kube, self.directory.cluster
        asked = self._translator.errors + self._diag.errors + self._host_errors
        state = SourceState(
            {},
            {},
            self.finder.errors + asked,
            0,
            self._translator.available,
            self._translator.lookups,
            self._translator.not_found,
            self.unsynced(),
            self._contradicted,
        )
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_contradicted_ns:
            self._next_contradicted_ns = now_ns + CONTRADICTED_EVERY_NS
            here, names = self.directory.interface_endpoints(), self.directory.names
            self._contradicted = self._contradictions.count(here, names, cluster, now_ns)
        if kube is None or cluster is None:
            return state
        return state._replace(
            ages_seconds={name: (now_ns - kube.contact_ns(name)) / 1e9 for name in kube.resources},
            objects=cluster.counts()._asdict(),
            errors=state.errors + sum(map(kube.errors, kube.resources)),
            lists=sum(map(kube.lists, kube.resources)),
        )

    def context(self) -> EpochContext:
        """Return names, services and policies as of now; call ``refresh`` first."""
        now_ns = time.monotonic_ns()
        self._keep_policies(now_ns)
        _, low = self.directory.book.table().recent(now_ns - REASSIGNED_NS)
        services, declared = self.directory.services(), self.policies.declared()
        return EpochContext(
            self.directory.names,
            now_ns,
            services,
            self._translator.translate,
            self._diag.cgroups,
            np.sort(low.byteswap()),
            self.directory.cluster_labels(),
            declared,
            self._exposure.lookup(services, declared, self.directory.cluster, self.kube, now_ns),
            wall_ns=time.time_ns(),
        )

    def _keep_policies(self, now_ns: int) -> None:
        """Have the policies kept, and kept ones in force while the API does not give them."""
        if now_ns >= self._sync_by_ns:
            self.policies.use_kept()
        kube, offset_ns = self.kube, time.time_ns() - now_ns
        names = POLICY_RESOURCE_NAMES if kube is not None else ()
        contact = {n: (kube.contact_ns(n) + offset_ns) / 1e9 for n in names if kube is not None}
        self._keeper.offer(self.policies.in_force, contact)

    def refresh(self, now_ns: int) -> None:
        """Bring the table of names up to date; ``take_renamed`` has the interfaces it changed."""
        self._take_answers()
        if now_ns >= self._next_host_ns:
            self._read_host_addresses()
            self._next_host_ns = now_ns + HOST_EVERY_NS
        before = self.directory.names.endpoints
        if self.directory.refresh(now_ns):
            after = self.directory.names.endpoints
            # Without a final name, nothing is booked under it yet.
            self._renamed.update(
                i
                for i, endpoint in after.items()
                if before.get(i, UNKNOWN_ENDPOINT).final
                and before.get(i, UNKNOWN_ENDPOINT) != endpoint
            )

    def take_renamed(self) -> tuple[int, ...]:
        """Return the interfaces of endpoints renamed since the last call."""
        renamed, self._renamed = tuple(self._renamed), set()
        return renamed

    def _read_host_addresses(self) -> None:
        """Read this host's addresses; after an error the ones known before stay."""
        try:
            if self._namespaces is None:
                self._namespaces = Namespaces()
            addresses = self._namespaces.own_addresses()
        except OSError as error:
            self._host_errors += 1
            self._host_trouble.met("cannot read this host's addresses: %s", error)
            return
        self._host_trouble.over("this host's addresses are read again")
        self.directory.host_addresses(map(address_text, addresses))

    def _take_answers(self) -> None:
        directory = self.directory
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return
            match answer:
                case ProcessFound(ifindex, found):
                    directory.process_found(ifindex, found)
                case PodNamed(uid, namespace, name, labels, source, container):
                    work = from_labels(name, labels) or Workload(name, "Pod")
                    pod = Endpoint(namespace, name, *work, source, labels, uid)
                    directory.named(container or uid, pod)
                case ContainerNamed(container, name, labels, source):
                    kind = source.capitalize()
                    directory.named(container, Endpoint(source, name, name, kind, source, labels))
                case ObjectPage(resource) | Changed(resource) if resource in POLICY_RESOURCE_NAMES:
                    self.policies.apply(answer)
                case ObjectPage() | Changed():
                    directory.apply_api_event(answer, Clocks(time.time_ns(), time.monotonic_ns()))

    def look_up_cgroups(self, unknown: Iterable[int], now_ns: int) -> None:
        """Find the owners of cgroups under which the ledger met sockets of the host."""
        for cgroup in unknown:
            try:
                path = self._cgroups.path_of(cgroup)
                found = hierarchies().owner_of_path(path) if path is not None else _GONE
            except OSError as error:  # looked up again when the ledger meets it again
                self._host_errors += 1
                self._cgroup_trouble.met("cannot look up cgroups: %s", error)
                continue
            self._cgroup_trouble.over("cgroups are looked up again")
            if self._cgroups.mount is None:  # without cgroup v2 all of it is the host
                found = None
            self.directory.socket_found(cgroup, found, now_ns)
            if found is not None:
                self.finder.request_name(found)

    def observe_senders(self, table: Table) -> None:
        """Find when an address changed hands: at the first packet from its new owner's own
        interface, in the half at rest.
        """
        contested = self.directory.contested()
        if not contested:
            return
        rows = table.keys_at_rest()
        low = np.array([lower_word(address) for address in contested], np.uint64)
        rows = rows[np.isin(rows["local_address"][:, 1], low)]
        rows = rows[np.argsort(rows["first_seen_ns"], kind="stable")]
        senders = np.zeros(len(rows), _SENDER)
        senders["ifindex"], senders["address"] = rows["ifindex"], rows["local_address"]
        _, first = np.unique(senders.view((np.void, _SENDER.itemsize)), return_index=True)
        for row in rows[first]:
            address = row["local_address"].tobytes()
            self.directory.observed(int(row["ifindex"]), address, int(row["first_seen_ns"]))


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)

# SPDX-License-Identifier: Apache-2.0
"""What is known of both ends of the flows when an epoch is booked: asks every source of names.

Lives in the main thread; the finder and the API's client have threads of their own and
answer through queues.
"""

import logging
import os
import queue
import socket
import time
from typing import NamedTuple

import numpy as np

from podtally.config import Config
from podtally.identity.claim_conflicts import ClaimConflicts, ConflictCounts
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.directory import Directory
from podtally.identity.interface_endpoints import address_text, lower_word
from podtally.identity.model import UNKNOWN, UNKNOWN_ENDPOINT, Endpoint
from podtally.kernel.table import Table
from podtally.kube.api_access import api_access
from podtally.kube.model import ApiEvent, Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.kube.source import FORBIDDEN, KubeSource
from podtally.kube.workloads import Workload, from_labels
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.netlink.conntrack import Translator
from podtally.netlink.namespaces import Namespaces
from podtally.netlink.sock_diag import SocketDiag
from podtally.policy.exposure.exposures import Exposure, ExposureBuilder
from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES, POLICY_RESOURCES
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.policy_sources import PolicySources
from podtally.runtimes import cgroups
from podtally.runtimes.cgroup_hierarchies import hierarchies
from podtally.runtimes.cgroup_ids import CgroupIds, find_mount
from podtally.runtimes.cri import CriClient
from podtally.runtimes.engines import ContainerNames
from podtally.runtimes.name_resolver import ContainerNamed, NameResolver, PodNamed
from podtally.runtimes.pod_logs import PodLogs
from podtally.runtimes.process_finder import ProcessFinder, ProcessFound
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

HOST_EVERY_NS = 30_000_000_000  # the host's own addresses seldom change
EXPOSURE_EVERY_NS = 2_000_000_000  # Services of a big cluster change all the time
_DECLARING = ("services", "endpointslices", "nodes")
SYNC_NS = 10_000_000_000  # so long the first lists may take
CONTRADICTED_EVERY_NS = 5_000_000_000
REASSIGNED_NS = 10_000_000_000  # a connection that goes on under a new owner shows by then
# Who it was under a cgroup that is no more, nobody can tell.
_GONE = cgroups.CgroupOwner("host", UNKNOWN)
_ENDS = np.dtype([("ifindex", "u8"), ("address", "u8", (2,))])

Answers = queue.SimpleQueue[ApiEvent | ProcessFound | PodNamed | ContainerNamed]


class Threads(NamedTuple):
    """Sources that work by themselves."""

    finder: ProcessFinder
    policies: PolicySources
    kube: KubeSource | None


class SourceState(NamedTuple):
    """Of a source that was never heard, the age is that of this host's uptime."""

    ages_seconds: dict[str, float]  # by resource of the API
    objects: dict[str, int]
    errors: int  # since the start, as the next
    lists: int
    conntrack: bool
    lookups: int  # of the connection tracker, since the start, as the next
    lookups_missed: int
    unsynced: dict[str, str]  # resources of the API that are not known, and why
    contradicted: ConflictCounts  # addresses that endpoints configure and that are another's


class IdentitySources:
    """Over one directory and ledger; ``answers`` is what the finder and the API put into."""

    def __init__(
        self,
        ledger: Ledger,
        directory: Directory,
        answers: Answers,
        threads: Threads,
    ) -> None:
        self.directory = directory
        self.finder, self.policies, self.kube = threads
        self._answers = answers
        self._ledger = ledger
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
        self._exposures = ExposureBuilder()
        self._exposure: Exposure | None = None
        self._exposure_of: tuple[object, ...] = ()
        self._next_exposure_ns = 0

    def start(self) -> None:
        self.policies.start()
        self.finder.start()
        if self.kube is not None:
            self.kube.start()

    def close(self) -> None:
        if self.kube is not None:
            self.kube.stop()
        self.finder.stop()
        self.policies.stop()
        self._cgroups.close()
        self._translator.close()
        self._diag.close()
        if self._namespaces is not None:
            self._namespaces.close()

    def dead(self) -> str:
        """Which of the threads has died, if any."""
        if not self.finder.alive:
            return "the thread that finds processes has died"
        if not self.policies.alive:
            return "the thread that reads policies has died"
        for resource in self.kube.resources if self.kube is not None else ():
            if self.kube is not None and not self.kube.alive(resource):
                return f"the thread that watches {resource} has died"
        return ""

    def unsynced(self) -> dict[str, str]:
        """Resources of the API that are not known as they are, and why."""
        kube = self.kube
        return {n: why for n in kube.resources if (why := kube.unsynced(n))} if kube else {}

    def trouble(self) -> str:
        """What is wrong with one of the threads that go on nevertheless; "" if nothing is."""
        kube = self.kube
        threads = [self.finder.trouble, self.policies.trouble]
        threads += map(kube.trouble, kube.resources) if kube is not None else ()
        unsynced = self.unsynced()
        if FORBIDDEN in unsynced.values() or time.monotonic_ns() > self._sync_by_ns:
            words = (f"{name} {why}" for name, why in unsynced.items())
            threads += ["the Kubernetes API: " + ", ".join(words)] if unsynced else []
        return next(filter(None, threads), "")

    def state(self) -> SourceState:
        """How the sources are, for the agent's own metrics."""
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
            here, names = self.directory.residents(), self.directory.names
            self._contradicted = self._contradictions.count(here, names, cluster, now_ns)
        if kube is None or cluster is None:
            return state
        return state._replace(
            ages_seconds={name: (now_ns - kube.contact_ns(name)) / 1e9 for name in kube.resources},
            objects=cluster.counts()._asdict(),
            errors=state.errors + sum(map(kube.errors, kube.resources)),
            lists=sum(map(kube.lists, kube.resources)),
        )

    def present(self, table: Table) -> EpochContext:
        """The world as the half at rest has to be booked by."""
        self._look_who_sent(table)
        now_ns = time.monotonic_ns()
        self.refresh(now_ns)
        _, low = self.directory.book.table().recent(now_ns - REASSIGNED_NS)
        return EpochContext(
            self.directory.names,
            now_ns,
            self.directory.services(),
            self._translator.translate,
            self._diag.cgroups,
            np.sort(low.byteswap()),
            self.directory.places(),
            self.policies.declared(),
            self._exposed(now_ns),
        )

    def _exposed(self, now_ns: int) -> Exposure | None:
        """What is declared to be exposed, once the API has told of all that may declare it."""
        cluster, kube, declared = self.directory.cluster, self.kube, self.policies.declared()
        if cluster is None or kube is None or not declared.ingresses_known:
            return None
        if not all(map(kube.listed, _DECLARING)):
            return None
        if now_ns >= self._next_exposure_ns:
            self._next_exposure_ns = now_ns + EXPOSURE_EVERY_NS
            made_of = (self.directory.services(), declared.ingresses, cluster.node_addresses())
            if self._exposure_of != made_of:
                self._exposure_of = made_of
                ingresses, nodes = declared.ingresses, made_of[2]
                self._exposure = self._exposures.exposure(ingresses, made_of[0], nodes)
        return self._exposure

    def refresh(self, now_ns: int) -> None:
        """Bring the table of names up to date, and tell the ledger whose have changed."""
        self._take_answers()
        self._look_at_sockets(now_ns)
        if now_ns >= self._next_host_ns:
            self._look_at_host()
            self._next_host_ns = now_ns + HOST_EVERY_NS
        before = self.directory.names.endpoints
        if self.directory.refresh(now_ns):
            after = self.directory.names.endpoints
            # What was not final has nothing booked under it yet.
            self._ledger.rename(
                i
                for i, endpoint in after.items()
                if before.get(i, UNKNOWN_ENDPOINT).final
                and before.get(i, UNKNOWN_ENDPOINT) != endpoint
            )

    def _look_at_host(self) -> None:
        """Take in which addresses this host has; what was known stays while it cannot be asked."""
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
                    self.policies.heard(answer)
                case ObjectPage() | Changed():
                    directory.apply_api_event(answer, Clocks(time.time_ns(), time.monotonic_ns()))

    def _look_at_sockets(self, now_ns: int) -> None:
        """Whose are the cgroups under which the ledger met sockets of the host?"""
        for cgroup in self._ledger.attribution.take_unknown_cgroups():
            try:
                path = self._cgroups.path_of(cgroup)
                found = hierarchies().owner_of_path(path) if path is not None else _GONE
            except OSError as error:  # asked again when it is met again
                self._host_errors += 1
                self._cgroup_trouble.met("cannot look up cgroups: %s", error)
                continue
            self._cgroup_trouble.over("cgroups are looked up again")
            if self._cgroups.mount is None:  # without cgroup v2 all of it is the host
                found = None
            self.directory.socket_found(cgroup, found, now_ns)
            if found is not None:
                self.finder.request_name(found)

    def _look_who_sent(self, table: Table) -> None:
        """Where an address has just changed hands, its owner's own packets tell since when."""
        contested = self.directory.contested()
        if not contested:
            return
        rows = table.keys_at_rest()
        low = np.array([lower_word(address) for address in contested], np.uint64)
        rows = rows[np.isin(rows["local_address"][:, 1], low)]
        rows = rows[np.argsort(rows["first_seen_ns"], kind="stable")]
        ends = np.zeros(len(rows), _ENDS)
        ends["ifindex"], ends["address"] = rows["ifindex"], rows["local_address"]
        _, first = np.unique(ends.view((np.void, _ENDS.itemsize)), return_index=True)
        for row in rows[first]:
            address = row["local_address"].tobytes()
            self.directory.observed(int(row["ifindex"]), address, int(row["first_seen_ns"]))


def make_identity_sources(config: Config, ledger: Ledger) -> IdentitySources:
    """PodtallyError if the API is asked for and cannot be reached as it is told."""
    answers: Answers = queue.SimpleQueue()
    access, node = api_access(config), config.node_name or default_node_name()
    directory = Directory(
        config.endpoints,
        config.networks,
        int(config.name_wait * 1e9),
        ClusterState(node) if access is not None else None,
    )
    resolver = NameResolver(answers.put, _cri(config), PodLogs(config.pod_logs), ContainerNames())
    finder = ProcessFinder(answers.put, resolver)
    kube = None
    if access is not None:
        kube = KubeSource(access, (*RESOURCES, *POLICY_RESOURCES), answers.put)
        log.info("names come from the API at %s; this node is %s", access.server.url, node)
    policies = PolicySources(
        PolicyFiles(config.policies) if config.policies else None,
        PolicyFiles(config.candidates, candidate=True) if config.candidates else None,
        LivePolicies() if access is not None else None,
        config.candidate_delete,
    )
    return IdentitySources(ledger, directory, answers, Threads(finder, policies, kube))


def default_node_name() -> str:
    """As the downward API gives it, else what the kubelet takes: the host's name, in lower case."""
    return os.environ.get("NODE_NAME") or socket.gethostname().lower()


def _cri(config: Config) -> CriClient | None:
    if config.cri_socket == "off":
        return None
    return CriClient.from_setting(config.cri_socket)

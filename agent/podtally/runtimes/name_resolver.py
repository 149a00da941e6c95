# SPDX-License-Identifier: Apache-2.0
"""The thread that asks the node itself for names: the kubelet's logs, the runtime, the engines.

A cgroup tells a pod's UID or a container's id, and no name. A runtime that hangs holds up
this thread and nobody else.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from podtally.runtimes.cgroups import CgroupOwner
from podtally.runtimes.cri import CriClient
from podtally.runtimes.cri_proto import Sandbox
from podtally.runtimes.engines import ContainerEngines
from podtally.runtimes.model import Labels
from podtally.runtimes.pod_logs import PodLogs
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

# When to ask, in seconds after the first time: a runtime lists a pod once its network
# stands, which is after its first process.
_TRIES_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0, 7.0, 10.0)
_CRI_KINDS = frozenset({"containerd", "cri-o", "container"})


class PodNamed(NamedTuple):
    """A pod's UID has a name; the runtime, which knows the labels too, answers after the logs."""

    uid: str
    namespace: str
    name: str
    labels: Labels
    source: str  # cri, pod logs
    container: str = ""  # by whose id it was asked for, where the cgroup told no UID


class ContainerNamed(NamedTuple):
    container: str  # the whole id
    name: str
    labels: Labels
    source: str  # docker, podman, container


NameFound = PodNamed | ContainerNamed


@dataclass(slots=True)
class _PendingName:
    found: CgroupOwner
    since: float
    tries: int = 0
    named: bool = False  # by the logs

    @property
    def key(self) -> str:
        return self.found.name if self.found.kind == "pod" else self.found.container

    def due(self) -> float:
        return self.since + _TRIES_S[self.tries]


class NameResolver:
    """``name`` may be called by any thread; what is found goes to ``named``, in the namer's."""

    def __init__(
        self,
        named: Callable[[NameFound], None],
        cri: CriClient | None,
        pod_logs: PodLogs,
        containers: ContainerEngines,
    ) -> None:
        self._named = named
        self._cri = cri
        self._pod_logs = pod_logs
        self._containers = containers
        self._asked: queue.SimpleQueue[_PendingName | None] = queue.SimpleQueue()
        self._pending: dict[str, _PendingName] = {}
        self._worker = Worker("namer", self._run, log)

    @property
    def errors(self) -> int:
        """Questions that the runtime did not answer."""
        asked = self._cri.errors if self._cri is not None else 0
        return asked + self._worker.failures

    @property
    def alive(self) -> bool:
        return self._worker.alive

    @property
    def trouble(self) -> str:
        return self._worker.trouble

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._asked.put(None)
        self._worker.join()

    def name(self, found: CgroupOwner) -> None:
        """Ask for the name of a pod or a container; others have all the name there is."""
        if found.kind == "pod" or found.container:
            self._asked.put(_PendingName(found, time.monotonic()))

    def _run(self) -> None:
        while True:
            due = min((p.due() for p in self._pending.values()), default=None)
            timeout = None if due is None else max(0.0, due - time.monotonic())
            try:
                asked = self._asked.get(timeout=timeout)
            except queue.Empty:
                self._try()
                continue
            if asked is None:
                return
            self._pending.setdefault(asked.key, asked)

    def _try(self) -> None:
        """Ask for all that are due; one list of the runtime serves them."""
        now = time.monotonic()
        due = [p for p in self._pending.values() if p.due() <= now]
        for pending in due:
            self._ask_files(pending)
        if self._cri is not None and self._cri.socket() is not None:
            self._ask_runtime(self._cri, [p for p in due if p.key in self._pending])
        else:
            self._done(p.key for p in due if p.named)
        for pending in due:
            pending.tries += 1
            if pending.tries == len(_TRIES_S):
                self._done([pending.key])

    def _ask_files(self, pending: _PendingName) -> None:
        found = pending.found
        if found.kind == "pod":
            entry = None if pending.named else self._pod_logs.find(found.name)
            if entry is not None:
                pending.named = True
                self._named(PodNamed(found.name, entry.namespace, entry.name, (), "pod logs"))
        elif (name := self._containers.find(found.container)) is not None:
            self._named(ContainerNamed(found.container, name.name, name.labels, found.kind))
            self._done([pending.key])

    def _ask_runtime(self, cri: CriClient, due: list[_PendingName]) -> None:
        pods = [p for p in due if p.found.kind == "pod"]
        others = [p for p in due if p.found.kind in _CRI_KINDS]
        if not pods and not others:
            return
        only = pods[0].key if len(pods) == 1 and not others else ""
        sandboxes = cri.sandboxes(uid=only)
        if sandboxes is None:
            return
        newest = sorted(sandboxes, key=lambda s: (s.ready, s.created_ns))
        by_uid = {sandbox.uid: sandbox for sandbox in newest}
        for pending in pods:
            self._tell(pending, by_uid.get(pending.key))
        if others:
            self._tell_containers(cri, others, {sandbox.id: sandbox for sandbox in sandboxes})

    def _tell_containers(
        self, cri: CriClient, pending: list[_PendingName], by_id: dict[str, Sandbox]
    ) -> None:
        """A container, or the sandbox itself, which the runtime does not list as a container."""
        owners = {}
        if any(p.key not in by_id for p in pending):
            owners = {c.id: c.sandbox_id for c in cri.containers() or ()}
        for each in pending:
            self._tell(each, by_id.get(owners.get(each.key, each.key)))

    def _tell(self, pending: _PendingName, sandbox: Sandbox | None) -> None:
        if sandbox is None or not sandbox.name:
            return
        container = "" if pending.found.kind == "pod" else pending.key
        self._named(
            PodNamed(sandbox.uid, sandbox.namespace, sandbox.name, sandbox.labels, "cri", container)
        )
        self._done([pending.key])

    def _done(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._pending.pop(key, None)

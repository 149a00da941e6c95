# SPDX-License-Identifier: Apache-2.0
"""The thread that looks up names of pods and containers on this node.

Sources are the kubelet's log directories, the runtime (CRI) and the engines' files. A cgroup
shows a pod's UID or a container's id, but no name. A runtime that hangs blocks only this thread.
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
from podtally.runtimes.engines import ENGINES, ContainerNames
from podtally.runtimes.model import Labels
from podtally.runtimes.pod_logs import PodLogs
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

# When to look, in seconds after the request: a runtime lists a pod once its network is set up,
# which is after its first process has started.
_TRIES_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0, 7.0, 10.0)
_CRI_KINDS = frozenset(("container", *(engine.name for engine in ENGINES if engine.in_cri)))


class PodNamed(NamedTuple):
    """The name of a pod, by UID; the runtime, which has labels too, may answer after the logs."""

    uid: str
    namespace: str
    name: str
    labels: Labels
    source: str  # cri, pod logs
    container: str = ""  # its id, if the cgroup shows that instead of the UID


class ContainerNamed(NamedTuple):
    container: str  # the full id
    name: str
    labels: Labels
    source: str  # docker, podman, container


NameFound = PodNamed | ContainerNamed


@dataclass(slots=True)
class _PendingName:
    owner: CgroupOwner
    since: float
    tries: int = 0
    in_logs: bool = False

    @property
    def key(self) -> str:
        return self.owner.name if self.owner.kind == "pod" else self.owner.container

    def due(self) -> float:
        return self.since + _TRIES_S[self.tries]


class NameResolver:
    """Any thread may call ``request``; ``on_name`` is called in the resolver's thread."""

    def __init__(
        self,
        on_name: Callable[[NameFound], None],
        cri: CriClient | None,
        pod_logs: PodLogs,
        container_names: ContainerNames,
    ) -> None:
        self._on_name = on_name
        self._cri = cri
        self._pod_logs = pod_logs
        self._container_names = container_names
        self._requests: queue.SimpleQueue[_PendingName | None] = queue.SimpleQueue()
        self._pending: dict[str, _PendingName] = {}
        self._worker = Worker("name-resolver", self._run, log)

    @property
    def errors(self) -> int:
        """Return the number of requests that the runtime did not answer."""
        return (self._cri.errors if self._cri is not None else 0) + self._worker.failures

    @property
    def alive(self) -> bool:
        return self._worker.alive

    @property
    def trouble(self) -> str:
        return self._worker.trouble

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._requests.put(None)
        self._worker.join()

    def request(self, owner: CgroupOwner) -> None:
        """Look up the name of a pod or a container; other owners have no other name."""
        if owner.kind == "pod" or owner.container:
            self._requests.put(_PendingName(owner, time.monotonic()))

    def _run(self) -> None:
        while True:
            due = min((p.due() for p in self._pending.values()), default=None)
            timeout = None if due is None else max(0.0, due - time.monotonic())
            try:
                request = self._requests.get(timeout=timeout)
            except queue.Empty:
                self._try()
                continue
            if request is None:
                return
            self._pending.setdefault(request.key, request)

    def _try(self) -> None:
        """Look up all that are due, with one list of the runtime."""
        now = time.monotonic()
        due = [p for p in self._pending.values() if p.due() <= now]
        for pending in due:
            self._try_files(pending)
        if self._cri is not None and self._cri.socket() is not None:
            self._try_runtime(self._cri, [p for p in due if p.key in self._pending])
        else:
            self._done(p.key for p in due if p.in_logs)
        for pending in due:
            pending.tries += 1
            if pending.tries == len(_TRIES_S):
                self._done([pending.key])

    def _try_files(self, pending: _PendingName) -> None:
        owner = pending.owner
        if owner.kind == "pod":
            entry = None if pending.in_logs else self._pod_logs.find(owner.name)
            if entry is not None:
                pending.in_logs = True
                self._on_name(PodNamed(owner.name, entry.namespace, entry.name, (), "pod logs"))
        elif (name := self._container_names.find(owner.container)) is not None:
            self._on_name(ContainerNamed(owner.container, name.name, name.labels, owner.kind))
            self._done([pending.key])

    def _try_runtime(self, cri: CriClient, due: list[_PendingName]) -> None:
        pods = [p for p in due if p.owner.kind == "pod"]
        containers = [p for p in due if p.owner.kind in _CRI_KINDS]
        if not pods and not containers:
            return
        uid = pods[0].key if len(pods) == 1 and not containers else ""
        sandboxes = cri.sandboxes(uid=uid)
        if sandboxes is None:
            return
        # A pod may have several sandboxes: the ready one counts, then the newest.
        by_uid = {s.uid: s for s in sorted(sandboxes, key=lambda s: (s.ready, s.created_ns))}
        for pending in pods:
            self._resolve(pending, by_uid.get(pending.key))
        if containers:
            self._resolve_containers(cri, containers, {s.id: s for s in sandboxes})

    def _resolve_containers(
        self, cri: CriClient, pending: list[_PendingName], by_id: dict[str, Sandbox]
    ) -> None:
        """Resolve containers, and sandboxes, which the runtime does not list as containers."""
        sandbox_of = {}
        if any(p.key not in by_id for p in pending):
            sandbox_of = {c.id: c.sandbox_id for c in cri.containers() or ()}
        for each in pending:
            self._resolve(each, by_id.get(sandbox_of.get(each.key, each.key)))

    def _resolve(self, pending: _PendingName, sandbox: Sandbox | None) -> None:
        if sandbox is None or not sandbox.name:
            return
        container = "" if pending.owner.kind == "pod" else pending.key
        self._on_name(
            PodNamed(sandbox.uid, sandbox.namespace, sandbox.name, sandbox.labels, "cri", container)
        )
        self._done([pending.key])

    def _done(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._pending.pop(key, None)

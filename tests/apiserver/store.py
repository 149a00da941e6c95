# SPDX-License-Identifier: Apache-2.0
"""The test API server's store: objects under one global resourceVersion, and their history.

Each write becomes visible after a delay (``lag_seconds``), in order, for lists and watches alike.
"""

import bisect
import copy
import random
import threading
import time
import uuid
from typing import Any, NamedTuple

Object = dict[str, Any]  # as in the API's JSON


class Kind(NamedTuple):
    name: str  # the plural
    kind: str
    group: str  # "" for the core
    version: str
    custom: bool = False  # of a CRD: not there until it is installed

    @property
    def path(self) -> str:
        prefix = f"/apis/{self.group}" if self.group else "/api"
        return f"{prefix}/{self.version}/{self.name}"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


_POLICY = "policy.networking.k8s.io"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("pods", "Pod", "", "v1"),
        Kind("namespaces", "Namespace", "", "v1"),
        Kind("nodes", "Node", "", "v1"),
        Kind("services", "Service", "", "v1"),
        Kind("endpointslices", "EndpointSlice", "discovery.k8s.io", "v1"),
        Kind("replicasets", "ReplicaSet", "apps", "v1"),
        Kind("jobs", "Job", "batch", "v1"),
        Kind("networkpolicies", "NetworkPolicy", "networking.k8s.io", "v1"),
        Kind("ingresses", "Ingress", "networking.k8s.io", "v1"),
        Kind("clusternetworkpolicies", "ClusterNetworkPolicy", _POLICY, "v1alpha2", True),
        Kind("adminnetworkpolicies", "AdminNetworkPolicy", _POLICY, "v1alpha1", True),
        Kind(
            "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", _POLICY, "v1alpha1", True
        ),
    )
}


class Key(NamedTuple):
    namespace: str
    name: str


class Write(NamedTuple):
    version: int
    visible_at: float  # monotonic seconds
    resource: str
    key: Key
    type: str  # ADDED, MODIFIED, DELETED
    object: Object  # with DELETED: as it was, under the version of its end
    before: Object | None


def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


class Store:
    """Thread-safe; ``changed`` is notified at every write and by ``wake``."""

    def __init__(self, version: int = 100, dice: random.Random | None = None) -> None:
        self.changed = threading.Condition()
        self.lag_seconds = 0.0  # each write is seen after 0 to that many seconds
        self.compacted = 0  # history up to here is gone
        self.history_limit = 0  # compact by itself behind that many writes; 0: never
        self._first = version
        self._version = version
        self._dice = dice or random.Random()
        self._now: dict[tuple[str, Key], Object] = {}
        self._base: dict[str, dict[Key, Object]] = {name: {} for name in KINDS}  # before writes
        self._writes: list[Write] = []
        self._seen_at: list[float] = []
        self._snapshots: dict[tuple[str, int], list[Object]] = {}

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def begin_with(self, resource: str, items: list[Object], version: int) -> None:
        """Store ``items`` unchanged, as present before the first write."""
        with self.changed:
            assert not self._writes, "only before the first write"
            for item in items:
                self._base[resource][key_of(item)] = item
                self._now[resource, key_of(item)] = item
            self._first = self._version = max(self._version, version)

    def put(self, resource: str, item: Object) -> Object:
        """Create or replace; fills in uid, times and version. Returns what is stored."""
        with self.changed:
            before = self._now.get((resource, key_of(item)))
            item = copy.deepcopy(item)
            metadata = item["metadata"]
            old = before["metadata"] if before else {}
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            metadata.setdefault("uid", old.get("uid") or str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", old.get("creationTimestamp") or stamp)
            metadata["resourceVersion"] = str(self._version + 1)
            self._write("MODIFIED" if before else "ADDED", resource, item)
            return item

    def delete(self, resource: str, namespace: str, name: str) -> None:
        with self.changed:
            item = copy.deepcopy(self._now[resource, Key(namespace, name)])
            item["metadata"]["resourceVersion"] = str(self._version + 1)
            self._write("DELETED", resource, item)

    def replay(self, type_: str, resource: str, item: Object) -> None:
        """Write as recorded: the object brings its version with it."""
        with self.changed:
            self._write(type_, resource, item)

    def objects(self, resource: str) -> dict[Key, Object]:
        """Return the truth, seen or not."""
        with self.changed:
            return {key: item for (name, key), item in self._now.items() if name == resource}

    def visible(self) -> int:
        """Return the version that clients see now."""
        with self.changed:
            count = bisect.bisect_right(self._seen_at, time.monotonic())
            return self._writes[count - 1].version if count else self._first

    def seconds_to_next(self) -> float | None:
        """Return when the next write will be seen; None: all are."""
        with self.changed:
            count = bisect.bisect_right(self._seen_at, time.monotonic())
            if count == len(self._seen_at):
                return None
            return self._seen_at[count] - time.monotonic()

    def compact(self, version: int | None = None) -> None:
        """Forget history: watches and continue tokens from before are Gone."""
        with self.changed:
            self.compacted = self.visible() if version is None else version
            self._snapshots.clear()
            self.changed.notify_all()

    def items(self, resource: str, version: int) -> list[Object]:
        """Return the objects at ``version``, in the order of their keys."""
        with self.changed:
            if (resource, version) not in self._snapshots:
                if len(self._snapshots) > 16:
                    self._snapshots.clear()
                there = dict(self._base[resource])
                for write in self._writes:
                    if write.version > version:
                        break
                    if write.resource != resource:
                        continue
                    if write.type == "DELETED":
                        there.pop(write.key, None)
                    else:
                        there[write.key] = write.object
                self._snapshots[resource, version] = [there[key] for key in sorted(there)]
            return self._snapshots[resource, version]

    def writes_after(self, resource: str, version: int) -> list[Write]:
        """Return the writes to a resource after ``version`` that are seen by now."""
        with self.changed:
            first = bisect.bisect_right(self._writes, version, key=lambda write: write.version)
            last = bisect.bisect_right(self._seen_at, time.monotonic())
            return [write for write in self._writes[first:last] if write.resource == resource]

    def _write(self, type_: str, resource: str, item: Object) -> None:
        key = key_of(item)
        version = int(item["metadata"]["resourceVersion"])
        assert version > self._version, f"{resource} {key}: {version} after {self._version}"
        before = self._now.get((resource, key))
        if type_ == "DELETED":
            del self._now[resource, key]
        else:
            self._now[resource, key] = item
        seen_at = time.monotonic() + self._dice.uniform(0.0, self.lag_seconds)
        seen_at = max(seen_at, self._seen_at[-1] if self._seen_at else 0.0)
        self._version = version
        self._writes.append(Write(version, seen_at, resource, key, type_, item, before))
        self._seen_at.append(seen_at)
        if self.history_limit and len(self._writes) > self.history_limit:
            self.compacted = max(self.compacted, self._writes[-self.history_limit - 1].version)
        self.changed.notify_all()

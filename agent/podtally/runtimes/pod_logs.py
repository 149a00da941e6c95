# SPDX-License-Identifier: Apache-2.0
"""Finds pods' names in the directories that the kubelet makes for their logs.

``/var/log/pods/NAMESPACE_NAME_UID`` exists before the pod's sandbox
(BuildPodLogsDirectory() in kubernetes pkg/kubelet/kuberuntime/helpers.go); a static pod's
UID is the hash of its manifest, as in its cgroup.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path("/var/log/pods")

# A directory made within the same tick of the file system's clock as a listing may be missing in
# it, without changing the mtime: a listing this close to the mtime is not reused.
_TICK_NS = 100_000_000


class PodLog(NamedTuple):
    namespace: str
    name: str


class PodLogs:
    """Finds pods by UID; lists the directory again only after it has changed."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._listed: dict[str, PodLog] = {}
        self._changed_ns = -1

    def find(self, uid: str) -> PodLog | None:
        """Return the pod with this UID; None if it has no directory (yet)."""
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns
            if changed_ns != self._changed_ns:
                now_ns = time.time_ns()
                self._listed = _read(os.listdir(self._directory))
                settled = now_ns - changed_ns > _TICK_NS
                self._changed_ns = changed_ns if settled else -1
        except OSError:  # no kubelet here
            return None
        return self._listed.get(uid)


def _read(entries: list[str]) -> dict[str, PodLog]:
    found = {}
    for entry in entries:
        # none of the three parts has an underscore (RFC 1123 names)
        parts = entry.split("_")
        if len(parts) == 3 and all(parts) and entry.isprintable():
            found[parts[2]] = PodLog(parts[0], parts[1])
    return found

# SPDX-License-Identifier: Apache-2.0
"""Lists pods and containers of the node's container runtime over the CRI, the kubelet's interface.

The sandbox list has a pod's namespace, name and labels, and needs no API server;
``name_resolver`` decides what to list when.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from podtally.runtimes import cri_proto as messages
from podtally.runtimes import grpc_unary
from podtally.runtimes.cri_proto import CriContainer, MalformedError, Sandbox
from podtally.runtimes.engines import ENGINES
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

SOCKETS = tuple(socket for engine in ENGINES for socket in engine.sockets)
TIMEOUT_SECONDS = 1.0
_SERVICE = "/runtime.v1.RuntimeService/"  # Kubernetes 1.23, containerd 1.6, CRI-O 1.23

_FileId = tuple[int, int, int]
T = TypeVar("T")


class CriClient:
    """Uses the first of ``sockets`` that exists and serves pods."""

    def __init__(
        self, sockets: Sequence[Path] = SOCKETS, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._sockets = tuple(sockets)
        self._timeout_seconds = timeout_seconds
        # A containerd that runs for Docker has no CRI, unless it is restarted with one.
        self._without_cri: dict[Path, _FileId] = {}
        self._failure = Condition(log, logging.WARNING)
        self.errors = 0

    @classmethod
    def from_setting(cls, setting: str) -> "CriClient":
        """Return the client for the setting ``cri_socket``: ``auto``, or a path."""
        return cls() if setting == "auto" else cls((Path(setting),))

    def socket(self) -> Path | None:
        """Return the socket in use; None if there is no runtime."""
        for path in self._sockets:
            found = _file_id(path)
            if found is not None and self._without_cri.get(path) != found:
                return path
        return None

    def sandboxes(self, uid: str = "", sandbox_id: str = "") -> list[Sandbox] | None:
        """Return all pods of the runtime, or one; None if it does not answer."""
        request = messages.list_sandboxes(uid, sandbox_id)
        return self._call("ListPodSandbox", request, messages.read_sandboxes)

    def containers(self, container_id: str = "") -> list[CriContainer] | None:
        """Return all containers, or one, without sandboxes; None if the runtime does not answer."""
        request = messages.list_containers(container_id)
        return self._call("ListContainers", request, messages.read_containers)

    def _call(
        self, method: str, request: bytes, read: Callable[[bytes], list[T]]
    ) -> list[T] | None:
        while (path := self.socket()) is not None:
            before = _file_id(path)
            try:
                answer = grpc_unary.call(path, _SERVICE + method, request, self._timeout_seconds)
                found = read(answer)
            except grpc_unary.CallError as error:
                if error.status == grpc_unary.UNIMPLEMENTED and before is not None:
                    self._without_cri[path] = before
                    log.info("%s has no runtime.v1: %s", path, error)
                    continue
                self._failed(f"{path} does not answer {method}: {error}")
                return None
            except MalformedError as error:
                self._failed(f"{path} answers {method} with an invalid message: {error}")
                return None
            self._recovered(path)
            return found
        return None

    def _failed(self, failure: str) -> None:
        self.errors += 1
        self._failure.met("%s; pods get their names from the other sources", failure)

    def _recovered(self, path: Path) -> None:
        self._failure.over("%s answers again", path)


def _file_id(path: Path) -> _FileId | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns

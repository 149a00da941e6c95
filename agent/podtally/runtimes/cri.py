# SPDX-License-Identifier: Apache-2.0
"""What the node's container runtime says of its pods, over the kubelet's own interface (CRI).

Its sandbox list has a pod's namespace, name and labels, and that without an API server;
what is asked when, and of whom, is ``namer``'s business.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from podtally.runtimes import cri_proto as messages
from podtally.runtimes import grpc_unary
from podtally.runtimes.cri_proto import CriContainer, MalformedError, Sandbox
from podtally.supervision.conditions import Condition

log = logging.getLogger(__name__)

SOCKETS = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/crio/crio.sock"),
    Path("/run/cri-dockerd.sock"),
    Path("/var/run/dockershim.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/run/k0s/containerd.sock"),
)
TIMEOUT_SECONDS = 1.0
_SERVICE = "/runtime.v1.RuntimeService/"  # Kubernetes 1.23, containerd 1.6, CRI-O 1.23

_FileId = tuple[int, int, int]
T = TypeVar("T")


class CriClient:
    """Asks the first of ``sockets`` that is there and serves pods."""

    def __init__(
        self, sockets: Sequence[Path] = SOCKETS, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._sockets = tuple(sockets)
        self._timeout_seconds = timeout_seconds
        # A containerd that is there for Docker has no CRI, until it is started anew.
        self._without_cri: dict[Path, _FileId] = {}
        self._fault = Condition(log, logging.WARNING)
        self.errors = 0

    @classmethod
    def of(cls, setting: str) -> "CriClient":
        """As ``cri_socket`` is set: ``auto``, or a path."""
        return cls() if setting == "auto" else cls((Path(setting),))

    def socket(self) -> Path | None:
        """Who would be asked; None where there is no runtime."""
        for path in self._sockets:
            found = _file_id(path)
            if found is not None and self._without_cri.get(path) != found:
                return path
        return None

    def sandboxes(self, uid: str = "", sandbox_id: str = "") -> list[Sandbox] | None:
        """All pods that the runtime has, or one's; None when it does not answer."""
        request = messages.list_sandboxes(uid, sandbox_id)
        return self._ask("ListPodSandbox", request, messages.read_sandboxes)

    def containers(self, container_id: str = "") -> list[CriContainer] | None:
        """All containers, or one, without the sandboxes' own; None when it does not answer."""
        request = messages.list_containers(container_id)
        return self._ask("ListContainers", request, messages.read_containers)

    def _ask(self, method: str, request: bytes, read: Callable[[bytes], list[T]]) -> list[T] | None:
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
                self._failed(f"{path} answers {method} with no protocol buffer: {error}")
                return None
            self._mended(path)
            return found
        return None

    def _failed(self, fault: str) -> None:
        self.errors += 1
        self._fault.met("%s; pods are named by the other sources", fault)

    def _mended(self, path: Path) -> None:
        self._fault.over("%s answers again", path)


def _file_id(path: Path) -> _FileId | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns

# SPDX-License-Identifier: Apache-2.0
"""An API server for tests: real HTTP(S), list and watch over a store, and faults on demand.

It answers as a kube-apiserver does (chunked watches, continue tokens, bookmarks, Status objects),
for what a list-and-watch client asks, and forwards ports and runs commands; nothing can be
written over HTTP.
"""

import contextlib
import ssl
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from types import TracebackType

from tests.apiserver.requests import Handler, Request
from tests.apiserver.store import KINDS, Key, Kind, Object, Store
from tests.apiserver.streams import PodBackend


@dataclass
class Fault:
    """An error for the next requests, of a resource, and lists or watches; "" is any."""

    code: int = 500
    reason: str = "InternalError"
    retry_after_seconds: int = 0
    resource: str = ""
    verb: str = ""  # list, watch
    times: int = 1  # -1: until taken away


@dataclass
class Faults:
    errors: list[Fault] = field(default_factory=list)
    hang: bool = False  # take requests and never answer
    freeze: bool = False  # send nothing more on watches, not even bookmarks
    cut_after_bytes: int = 0  # cut a watch within the next event, after that many bytes of it
    gone_by_http: bool = False  # 410 as the answer, not as an ERROR event
    error_event: tuple[int, str] = (0, "")  # code, reason: sent on every watch, once


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    api: "ApiServer"
    generation = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: tests break connections on purpose."""


class ApiServer:
    """Serves at once; ``with ApiServer() as api:`` stops it."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        authorizations: set[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.store = Store()
        self.faults = Faults()
        self.authorizations = authorizations  # values of the header that are let in; None: all
        self.tls = tls
        self.bookmark_seconds = 60.0
        self.watch_limit_seconds = 0.0  # ends watches that ask for longer; 0: as they ask
        self.requests: list[Request] = []
        self.kinds: dict[str, Kind] = {k.path: k for k in KINDS.values() if not k.custom}
        self.backends: dict[Key, PodBackend] = {}  # what can be reached in pods
        self.pod_rights = {"portforward", "exec"}  # subresources that are granted
        self.running = False
        self.generation = 0  # of the process, so to say: watches of an earlier one end
        self._connections: set[socket] = set()
        self._lock = threading.Lock()
        self._host = host
        self.port = port
        self.back()

    def __enter__(self) -> "ApiServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def lag_seconds(self) -> float:
        return self.store.lag_seconds

    @lag_seconds.setter
    def lag_seconds(self, seconds: float) -> None:
        self.store.lag_seconds = seconds

    def put(self, resource: str, item: Object) -> Object:
        return self.store.put(resource, item)

    def delete(self, resource: str, namespace: str, name: str) -> None:
        self.store.delete(resource, namespace, name)

    def install(self, resource: str) -> None:
        """Add a custom resource, as if its CRD had been applied."""
        kind = KINDS[resource]
        self.kinds = self.kinds | {kind.path: kind}

    def uninstall(self, resource: str) -> None:
        """Delete all objects of a resource, end its watches and remove it."""
        for key in self.store.objects(resource):
            self.store.delete(resource, *key)
        self.kinds = {path: kind for path, kind in self.kinds.items() if kind.name != resource}
        self.store.wake()

    def close(self) -> None:
        if self.running:
            self.away()

    def away(self) -> None:
        """Stop listening, and end every connection."""
        self.running = False
        self.generation += 1
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        self.cut()

    def back(self) -> None:
        """Listen again, on the same port."""
        self._listener = _Listener((self._host, self.port), Handler)
        self._listener.api = self
        self._listener.generation = self.generation
        self.port = self._listener.server_address[1]
        self.running = True
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def restart(self, lose_history: bool = False) -> None:
        self.away()
        if lose_history:
            self.store.compact()
        self.back()

    def cut(self) -> None:
        """Cut every open connection within the response."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.shutdown(connection, SHUT_RDWR)
        self.store.wake()

    def release(self) -> None:
        """End all faults, and let hanging requests go on."""
        self.faults = Faults()
        self.store.wake()

    def opened(self, connection: socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def asked(self, request: Request) -> Fault | None:
        """Record a request; return the fault for it."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults.errors:
                of_it = fault.resource in ("", request.resource)
                if of_it and fault.verb in ("", request.verb) and fault.times:
                    fault.times -= 1
                    return fault
        return None

    def asked_for(self, resource: str, verb: str) -> list[Request]:
        with self._lock:
            return [r for r in self.requests if (r.resource, r.verb) == (resource, verb)]

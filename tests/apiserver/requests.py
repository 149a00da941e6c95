# SPDX-License-Identifier: Apache-2.0
"""How the test API server answers one request: lists in pages, watches in chunks."""

import base64
import binascii
import json
import random
import socket
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.apiserver.store import Key, Kind, Object, Write
from tests.apiserver.streams import PROTOCOL, ChannelSocket, accept_key, execute, forward

if TYPE_CHECKING:
    from tests.apiserver.server import ApiServer


class Request(NamedTuple):
    """A recorded request."""

    resource: str
    verb: str  # list, watch
    query: dict[str, str]
    at: float  # monotonic seconds


class Refused(Exception):  # noqa: N818 - not an error of ours
    """An error that is answered with a Status."""

    def __init__(
        self, code: int, reason: str, message: str, metadata: dict[str, str] | None = None
    ) -> None:
        self.code = code
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass(frozen=True)
class Selector:
    """The one field selector that a node's agent uses, metadata.name, and labels by equality."""

    field: str = ""
    value: str = ""
    labels: tuple[tuple[str, str, bool], ...] = ()  # key, value, and whether it is to be equal

    @classmethod
    def parse(cls, text: str, labels: str = "") -> "Selector":
        required = []
        for term in filter(None, labels.split(",")):
            key, sign, wanted = term.partition("!=" if "!=" in term else "=")
            if not sign:
                raise Refused(400, "BadRequest", f"label selector {term!r} is not supported")
            required.append((key, wanted, sign == "="))
        if not text:
            return cls(labels=tuple(required))
        name, separator, value = text.partition("=")
        if not separator or name not in ("spec.nodeName", "metadata.name"):
            raise Refused(400, "BadRequest", f"field selector {text!r} is not supported")
        return cls(name, value.removeprefix("="), tuple(required))

    def takes(self, item: Object | None) -> bool:
        if item is None:
            return False
        own = item["metadata"].get("labels") or {}
        if any((own.get(key) == value) != equal for key, value, equal in self.labels):
            return False
        if not self.field:
            return True
        part, name = self.field.split(".")
        return str(item.get(part, {}).get(name, "")) == self.value


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: Any  # a _Listener

    @property
    def api(self) -> "ApiServer":
        api: ApiServer = self.server.api
        return api

    def setup(self) -> None:
        if self.api.tls is not None:  # here, not in accept: a slow client blocks no other
            self.request.settimeout(10)
            self.request = self.api.tls.wrap_socket(self.request, server_side=True)
            self.request.settimeout(None)
        # A watch is written in small pieces, which must not wait for each other's ACK.
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()
        self.api.opened(self.request)

    def finish(self) -> None:
        self.api.closed(self.request)
        try:
            super().finish()
        finally:
            self.request.close()  # socketserver knows the one below TLS only

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ssl.SSLError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        try:
            self._get()
        except Refused as refused:
            self._send(refused.code, refused.body)

    def _get(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        verb = "watch" if query.get("watch") in ("1", "true") else "list"
        name = url.path.rpartition("/")[2]
        fault = self.api.asked(Request(name, verb, query, time.monotonic()))
        self._hang()
        if self.is_over:
            self.close_connection = True
            return
        allowed = self.api.authorizations
        if allowed is not None and self.headers.get("Authorization") not in allowed:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if fault is not None:
            refused = Refused(fault.code, fault.reason, f"test fault {fault.reason}")
            if fault.retry_after_seconds:
                refused.body["details"] = {"retryAfterSeconds": fault.retry_after_seconds}
            raise refused
        if name in ("portforward", "exec"):
            self._stream(url, name)
            return
        kind, namespace = self._kind(url.path)
        selector = Selector.parse(query.get("fieldSelector", ""), query.get("labelSelector", ""))
        answer = _Answer(self, kind, namespace, selector)
        if verb == "watch":
            answer.watch(query)
        else:
            answer.list(query)

    def _stream(self, url: urllib.parse.SplitResult, name: str) -> None:
        """Answer with a WebSocket into a pod."""
        _, _, _, _, namespace, _, pod, _ = url.path.split("/")
        if name not in self.api.pod_rights:
            raise Refused(403, "Forbidden", f'pods "{pod}" is forbidden: cannot get "pods/{name}"')
        backend = self.api.backends.get(Key(namespace, pod))
        if backend is None:
            raise Refused(404, "NotFound", f'pods "{pod}" not found')
        if self.headers.get("Upgrade", "").lower() != "websocket":
            raise Refused(400, "BadRequest", "you must specify at least 1 of stdin, stdout, stderr")
        if PROTOCOL not in self.headers.get("Sec-WebSocket-Protocol", ""):
            raise Refused(400, "BadRequest", "no protocol in common")
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header(
            "Sec-WebSocket-Accept", accept_key(self.headers.get("Sec-WebSocket-Key", ""))
        )
        self.send_header("Sec-WebSocket-Protocol", PROTOCOL)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        client = ChannelSocket(self.rfile, self.wfile)
        asked = urllib.parse.parse_qs(url.query)
        if name == "exec":
            execute(client, backend, asked["command"])
        else:
            forward(client, backend, int(asked["ports"][0]))

    def _hang(self) -> None:
        store = self.api.store
        with store.changed:
            store.changed.wait_for(lambda: not self.api.faults.hang or self.is_over)

    @property
    def is_over(self) -> bool:
        return bool(self.server.generation != self.api.generation)

    def _kind(self, path: str) -> tuple[Kind, str]:
        parts = path.split("/")
        namespace = ""
        if "namespaces" in parts[:-1]:
            at = parts.index("namespaces")
            namespace = parts[at + 1]
            path = "/".join(parts[:at] + parts[at + 2 :])
        if path not in self.api.kinds:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return self.api.kinds[path], namespace

    def _send(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if seconds := body.get("details", {}).get("retryAfterSeconds"):
            self.send_header("Retry-After", str(seconds))
        self.end_headers()
        self.wfile.write(data)


class _Answer:
    def __init__(self, handler: Handler, kind: Kind, namespace: str, selector: Selector) -> None:
        self._handler = handler
        self._api = handler.api
        self._store = handler.api.store
        self._kind = kind
        self._namespace = namespace
        self._selector = selector
        accept = handler.headers.get("Accept", "")
        self._metadata_only = "as=PartialObjectMetadata" in accept

    def list(self, query: dict[str, str]) -> None:
        version, start = self._from(query)
        items = [item for item in self._store.items(self._kind.name, version) if self._takes(item)]
        limit = int(query.get("limit", "0")) or len(items)
        page = items[start : start + limit]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if start + limit < len(items):
            metadata["continue"] = _token(version, start + limit)
            metadata["remainingItemCount"] = len(items) - start - limit
        partial = self._metadata_only
        body = {
            "kind": "PartialObjectMetadataList" if partial else f"{self._kind.kind}List",
            "apiVersion": "meta.k8s.io/v1" if partial else self._kind.api_version,
            "metadata": metadata,
            "items": [self._listed(item) for item in page],
        }
        self._handler._send(200, body)

    def _from(self, query: dict[str, str]) -> tuple[int, int]:
        """Return the version to list at, and the number of items that were listed before."""
        visible = self._store.visible()
        token = query.get("continue", "")
        if not token:
            asked = query.get("resourceVersion", "")
            if asked and int(asked) > visible:
                message = f"Timeout: Too large resource version: {asked}, current: {visible}"
                raise Refused(504, "Timeout", message)
            return visible, 0
        version, start = _read_token(token)
        if version < self._store.compacted:
            raise Refused(
                410,
                "Expired",
                "The provided continue parameter is too old to display a consistent list result.",
                {"continue": _token(visible, start)},
            )
        return version, start

    def watch(self, query: dict[str, str]) -> None:
        version = int(query.get("resourceVersion") or 0)
        is_gone = 0 < version < self._store.compacted
        if is_gone and self._api.faults.gone_by_http:
            raise _gone(version, self._store.compacted)
        handler = self._handler
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        if is_gone:
            self._event("ERROR", _gone(version, self._store.compacted).body)
        elif self._follow(version, query):
            return  # cut: without an end
        handler.wfile.write(b"0\r\n\r\n")

    def _follow(self, version: int, query: dict[str, str]) -> bool:
        """Send events until the watch's time is over (False), or it is cut (True)."""
        seconds = float(query.get("timeoutSeconds") or random.uniform(1800, 3600))
        limit = self._api.watch_limit_seconds
        end = time.monotonic() + (min(seconds, limit) if limit else seconds)
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        bookmark_at = time.monotonic() + self._api.bookmark_seconds
        if version == 0:
            version = self._store.visible()
            for item in self._store.items(self._kind.name, version):
                if self._takes(item):
                    self._event("ADDED", item)
        while not self._handler.is_over:
            frozen = self._api.faults.freeze
            if not frozen:
                sees = self._store.visible()
                for write in self._store.writes_after(self._kind.name, version):
                    if write.version <= sees and self._write(write):
                        return True
                if code := self._api.faults.error_event[0]:
                    self._event("ERROR", Refused(code, self._api.faults.error_event[1], "").body)
                    return False
                version = max(version, sees)
                if self._kind.path not in self._api.kinds:
                    return False  # its CRD was deleted
                now = time.monotonic()
                if bookmarks and (now >= bookmark_at or now >= end):
                    self._bookmark(version)
                    bookmark_at = now + self._api.bookmark_seconds
                if now >= end:
                    return False
            self._wait(version, min(end, bookmark_at))
        self._handler.close_connection = True
        return True

    def _wait(self, version: int, until: float) -> None:
        with self._store.changed:
            if self._store.visible() > version and not self._api.faults.freeze:
                return
            seconds = min(0.5, max(0.0, until - time.monotonic()))
            following = self._store.seconds_to_next()
            if following is not None:
                seconds = min(seconds, following)
            if self._api.faults.freeze:
                seconds = 0.05
            if seconds > 0:
                self._store.changed.wait(seconds)

    def _write(self, write: Write) -> bool:
        """Send a write as this watch sees it; True if the stream was cut meanwhile."""
        if self._namespace and write.key.namespace != self._namespace:
            return False
        was = self._selector.takes(write.before)
        takes = self._selector.takes(write.object) and write.type != "DELETED"
        if not was and not takes:
            return False
        type_ = "DELETED" if not takes else "MODIFIED" if was else "ADDED"
        item = write.object
        if type_ == "DELETED" and write.type != "DELETED" and write.before is not None:
            # It left the selection: as it was, under the version of its leaving.
            version = {"resourceVersion": str(write.version)}
            item = write.before | {"metadata": write.before["metadata"] | version}
        return self._event(type_, item)

    def _bookmark(self, version: int) -> None:
        metadata = {"resourceVersion": str(version)}
        self._event("BOOKMARK", {"metadata": metadata})

    def _event(self, type_: str, item: Object) -> bool:
        if type_ != "ERROR":
            item = self._with_kind(item)
        line = json.dumps({"type": type_, "object": item}).encode() + b"\n"
        cut = self._api.faults.cut_after_bytes
        wfile = self._handler.wfile
        if cut and type_ != "ERROR":
            self._api.faults.cut_after_bytes = 0
            wfile.write(b"%x\r\n%s" % (len(line), line[: min(cut, len(line) - 1)]))
            self._handler.close_connection = True
            return True
        wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        return False

    def _takes(self, item: Object) -> bool:
        namespace = item["metadata"].get("namespace", "")
        return self._selector.takes(item) and self._namespace in ("", namespace)

    def _listed(self, item: Object) -> Object:
        """Return an item as in a list, without its kind."""
        if self._metadata_only:
            return self._with_kind(item)
        return {name: part for name, part in item.items() if name not in ("kind", "apiVersion")}

    def _with_kind(self, item: Object) -> Object:
        if self._metadata_only:
            kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            return kind | {"metadata": item["metadata"]}
        return {"kind": self._kind.kind, "apiVersion": self._kind.api_version} | item


def _gone(version: int, compacted: int) -> Refused:
    return Refused(410, "Expired", f"too old resource version: {version} ({compacted})")


def _token(version: int, start: int) -> str:
    return base64.urlsafe_b64encode(f"{version} {start}".encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, int]:
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        version, start = text.split()
        return int(version), int(start)
    except (binascii.Error, ValueError):
        raise Refused(400, "BadRequest", "continue key is not valid") from None

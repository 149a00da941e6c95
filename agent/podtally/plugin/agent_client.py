# SPDX-License-Identifier: Apache-2.0
"""Queries one agent: by a forwarded port, or by a command in its container.

Forwarding is tried first: it needs fewer rights, and costs the node nothing. An agent that
requires TLS or a password answers the command, which uses its Unix socket.
"""

import contextlib
import http.client
from collections.abc import Sequence
from http import HTTPStatus
from typing import Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from podtally.api.schema import ErrorReply
from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.http import ApiError, ContactError
from podtally.kube.port_forward import ForwardedConnection
from podtally.kube.remote_exec import ExecResult, run_in_pod
from podtally.plugin.agent_pods import CONTAINER, AgentPod
from podtally.web.tls import TLS_REQUIRED

T = TypeVar("T")
Via = Literal["auto", "port-forward", "exec"]
_COMMAND = ("podtally", "query")
_LOCKED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_FAILURES = (ApiError, ContactError, OSError, http.client.HTTPException)


class RefusedQueryError(PodtallyError):
    """The agent answered that the query makes no sense to it."""


class AgentClient:
    """One agent, queried by one thread at a time; PodtallyError says why it cannot be."""

    def __init__(self, access: Access, agent: AgentPod, via: Via, timeout_seconds: float) -> None:
        self.agent = agent
        self._access = access
        self._via: Via = via
        self._seconds = timeout_seconds
        self._connection: ForwardedConnection | None = None

    def query(self, path: str, type_: type[T], **query: str | Sequence[str]) -> T:
        """Return the agent's reply; a parameter may have several values."""
        status, body = self.get(f"{path}?{urlencode(query, doseq=True)}" if query else path)
        try:
            if status == http.client.OK:
                return msgspec.json.decode(body, type=type_)
            reply = msgspec.json.decode(body, type=ErrorReply)
        except msgspec.DecodeError:
            raise PodtallyError(
                f"its agent has no {path} (status {status})", "is it of this version?"
            ) from None
        raise RefusedQueryError(reply.error, reply.fix)

    def get(self, target: str) -> tuple[int, bytes]:
        """Return status and body of a path and query."""
        if self.agent.problem:
            raise PodtallyError(self.agent.problem)
        if self._via == "exec":
            return self._get_by_exec(target)
        try:
            status, body = self._get_forwarded(target)
        except _FAILURES as error:
            raise PodtallyError(_describe(error)) from None
        locked = status in _LOCKED or (status == HTTPStatus.BAD_REQUEST and body == TLS_REQUIRED)
        if locked and self._via == "auto":
            self._via = "exec"  # also of later queries
            self.close()
            return self._get_by_exec(target)
        return status, body

    def run(self, command: tuple[str, ...]) -> ExecResult:
        """Run a command in the agent's container."""
        if self.agent.problem:
            raise PodtallyError(self.agent.problem)
        try:
            return run_in_pod(self._access, self.agent.path, CONTAINER, command, self._seconds)
        except _FAILURES as error:
            raise PodtallyError(_describe(error)) from None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_FAILURES):
                connection.close()

    def _get_by_exec(self, target: str) -> tuple[int, bytes]:
        done = self.run((*_COMMAND, target))
        if done.code == 0:
            return int(HTTPStatus.OK), done.out
        if done.out:
            return int(HTTPStatus.BAD_REQUEST), done.out
        raise PodtallyError(done.error.decode(errors="replace").strip() or "no reply")

    def _get_forwarded(self, target: str) -> tuple[int, bytes]:
        """Use the connection of the last query, or another if it was closed meanwhile."""
        if self._connection is not None:
            try:
                return self._exchange(self._connection, target)
            except _FAILURES:
                self.close()
        self._connection = ForwardedConnection(
            self._access, self.agent.path, self.agent.port, self._seconds
        )
        try:
            self._connection.connect()
            return self._exchange(self._connection, target)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _exchange(connection: ForwardedConnection, target: str) -> tuple[int, bytes]:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()


def _describe(error: Exception) -> str:
    if isinstance(error, ApiError) and error.code == HTTPStatus.FORBIDDEN:
        return f"not permitted: {error.status.message} (the rights are in docs/kubectl.md)"
    if isinstance(error, http.client.HTTPException):
        return f"no HTTP on the agent's port: {str(error) or type(error).__name__}"
    return str(error) or type(error).__name__

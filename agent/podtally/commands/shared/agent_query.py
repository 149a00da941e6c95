# SPDX-License-Identifier: Apache-2.0
"""Queries the running agent, on its Unix socket or its HTTP listener, and decodes replies."""

import argparse
import http.client
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from podtally.api.schema import ErrorReply
from podtally.commands.shared.arguments import add_output
from podtally.config import DEFAULT_LISTEN, Config, from_arguments
from podtally.errors import PodtallyError
from podtally.web import client
from podtally.web.starting import STARTING
from podtally.web.unix_socket import API_SOCKET

T = TypeVar("T")

LISTEN_VARIABLE = "PODTALLY_LISTEN"
_METRICS = "/metrics"


class NoAgentError(PodtallyError):
    """Nothing answers at the agent's address."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    add_output(parser)


def add_address(parser: argparse._ActionsContainer) -> None:
    """Add the arguments that say where the agent is."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's configuration, for its address"
    )
    parser.add_argument(
        "--listen",
        default=os.environ.get(LISTEN_VARIABLE),
        metavar="ADDR:PORT",
        help=f"the agent's address (default: ${LISTEN_VARIABLE}, or {DEFAULT_LISTEN})",
    )


class AgentAddress(NamedTuple):
    """Where to query the agent: its Unix socket if there is one, else its configured address."""

    config: Config
    socket: Path | None  # None: --listen names another agent, perhaps on another host

    def __str__(self) -> str:
        host, port = client.reachable_address(self.config)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def get(self, target: str) -> tuple[int, bytes]:
        local = client.get_local(self.socket, target) if self.socket else None
        return client.get(self.config, target) if local is None else local


def agent_address(args: argparse.Namespace) -> AgentAddress:
    """Return the address of the agent that the arguments name; PodtallyError."""
    settings = from_arguments(args)
    named = args.listen is not None
    return AgentAddress(settings, None if named else settings.state_dir / API_SOCKET)


def query(agent: AgentAddress, path: str, type_: type[T], **query: str) -> T:
    """Return the agent's reply; PodtallyError."""
    return query_words(agent, path, type_, {name: [value] for name, value in query.items()})


def query_words(
    agent: AgentAddress, path: str, type_: type[T], words: Mapping[str, Sequence[str]]
) -> T:
    """Return the agent's reply to parameters that may be repeated; PodtallyError."""
    text = urlencode(words, doseq=True)
    with _readable_errors(agent, path):
        status, body = agent.get(f"{path}?{text}" if text else path)
        _refuse_starting(agent, status, body)
        if status == http.client.OK:
            return msgspec.json.decode(body, type=type_)
        reply = msgspec.json.decode(body, type=ErrorReply)
    raise PodtallyError(f"the agent on {agent} refuses: {reply.error}", reply.fix)


def fetch_metrics(agent: AgentAddress) -> str:
    """Return the agent's /metrics; PodtallyError."""
    with _readable_errors(agent, _METRICS):
        status, body = agent.get(_METRICS)
        _refuse_starting(agent, status, body)
        if status != http.client.OK:
            raise http.client.HTTPException(f"status {status}")
        return body.decode(errors="replace")


def fetch(agent: AgentAddress, target: str) -> tuple[int, bytes]:
    """Return status and body of the agent's reply; PodtallyError if there is none."""
    with _readable_errors(agent, target):
        return agent.get(target)


def _refuse_starting(agent: AgentAddress, status: int, body: bytes) -> None:
    if status == http.client.SERVICE_UNAVAILABLE and body.startswith(STARTING.encode()):
        phase = body.decode(errors="replace").strip()
        raise PodtallyError(f"the agent on {agent} is {phase}", "try again in a moment")


@contextmanager
def _readable_errors(agent: AgentAddress, path: str) -> Iterator[None]:
    """Turn errors of the exchange into a PodtallyError."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        reason = error.strerror if isinstance(error, OSError) else None
        raise NoAgentError(
            f"no podtally answers on {agent}: {reason or error}",
            "is `podtally run` running? give its address with --listen or --config",
        ) from None
    except (http.client.HTTPException, msgspec.DecodeError) as error:
        reason = ascii(str(error) or type(error).__name__)
        raise PodtallyError(
            f"the server on {agent} has no {path}: {reason}",
            "is it podtally, of this version? choose the agent with --listen",
        ) from None

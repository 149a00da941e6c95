# SPDX-License-Identifier: Apache-2.0
"""Queries the running agent, on its Unix socket or its HTTP listener, and decodes the answer."""

import argparse
import http.client
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from podtally.api.schema import ErrorReply
from podtally.commands.arguments import add_output
from podtally.config import DEFAULT_LISTEN, Config, from_arguments
from podtally.errors import PodtallyError
from podtally.web import client
from podtally.web.unix_socket import API_SOCKET

T = TypeVar("T")

LISTEN_VARIABLE = "PODTALLY_LISTEN"
_METRICS = "/metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's own: it says where it listens"
    )
    parser.add_argument(
        "--listen",
        default=os.environ.get(LISTEN_VARIABLE),
        metavar="ADDR:PORT",
        help=f"where the agent listens (${LISTEN_VARIABLE}, or {DEFAULT_LISTEN})",
    )
    add_output(parser)


class AgentAddress(NamedTuple):
    """Where to query the agent: on its Unix socket if there is one, else as it is configured."""

    config: Config
    socket: Path | None  # None: --listen names another agent, perhaps on another host

    def __str__(self) -> str:
        host, port = client.reachable_address(self.config)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def get(self, target: str) -> tuple[int, bytes]:
        local = client.get_local(self.socket, target) if self.socket else None
        return client.get(self.config, target) if local is None else local


def agent_address(args: argparse.Namespace) -> AgentAddress:
    """Return where the agent of these arguments is; raises PodtallyError."""
    settings = from_arguments(args)
    named = args.listen is not None
    return AgentAddress(settings, None if named else settings.state_dir / API_SOCKET)


def query(agent: AgentAddress, path: str, type_: type[T], **query: str) -> T:
    """Return the agent's answer; raises PodtallyError where there is none."""
    with _answering(agent, path):
        status, body = agent.get(f"{path}?{urlencode(query)}" if query else path)
        if status == http.client.OK:
            return msgspec.json.decode(body, type=type_)
        refused = msgspec.json.decode(body, type=ErrorReply)
    raise PodtallyError(f"the agent on {agent} refuses: {refused.error}", refused.fix)


def fetch_metrics(agent: AgentAddress) -> str:
    """Return the agent's /metrics; raises PodtallyError where there are none."""
    with _answering(agent, _METRICS):
        status, body = agent.get(_METRICS)
        if status != http.client.OK:
            raise http.client.HTTPException(f"it answers {status}")
        return body.decode(errors="replace")


@contextmanager
def _answering(agent: AgentAddress, path: str) -> Iterator[None]:
    """Say in the operator's words why nobody answers, or nobody who is a podtally."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that none can have
        told = error.strerror if isinstance(error, OSError) else None
        raise PodtallyError(
            f"no podtally answers on {agent}: {told or error}",
            "is `podtally run` running? say where it listens with --listen or --config",
        ) from None
    except (http.client.HTTPException, msgspec.DecodeError) as error:
        words = ascii(str(error) or type(error).__name__)
        raise PodtallyError(
            f"who answers on {agent} has no {path}: {words}",
            "is it a podtally, and as new as this one? choose with --listen",
        ) from None

# SPDX-License-Identifier: Apache-2.0
"""Queries all agents in parallel, and lists the nodes that do not answer."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TextIO, TypeVar

import msgspec

from podtally.commands.shared.arguments import add_output
from podtally.commands.shared.tables import RED, paint, printable, style_of
from podtally.errors import PodtallyError
from podtally.kube.backoff import ClientTiming
from podtally.kube.user_access import user_access
from podtally.plugin.agent_client import AgentClient, Via
from podtally.plugin.agent_pods import DEFAULT_NAMESPACE, find_agents

T = TypeVar("T")

_MAX_THREADS = 64
_TIMEOUT_SECONDS = 10.0
_MAX_LISTED, _MAX_NAMES = 10, 3


class UnreachableNode(msgspec.Struct, frozen=True):
    node: str
    problem: str


class NodeReply(NamedTuple, Generic[T]):
    node: str
    reply: T


class FleetReplies(NamedTuple, Generic[T]):
    """Replies by node, and the nodes without one."""

    replies: list[NodeReply[T]]
    unreachable: list[UnreachableNode]

    def require(self) -> None:
        """Raise PodtallyError if no node answered."""
        if not self.replies and self.unreachable:
            first = self.unreachable[0]
            raise PodtallyError(
                f"none of {len(self.unreachable)} agents can be queried; "
                f"{first.node}: {first.problem}"
            )


def add_arguments(parser: argparse.ArgumentParser, output: bool = True) -> None:
    """Add the arguments that choose the cluster and its agents; ``output``: and the shape."""
    cluster = parser.add_argument_group("the cluster")
    cluster.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    cluster.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="(default: $KUBECONFIG, ~/.kube/config)"
    )
    cluster.add_argument(
        "--node", action="append", default=[], metavar="NAME",
        help="only this node; may be repeated",
    )  # fmt: skip
    cluster.add_argument(
        "--agent-namespace", metavar="NAMESPACE",
        help=f"where the agents run (default: {DEFAULT_NAMESPACE}, else any)",
    )  # fmt: skip
    cluster.add_argument(
        "--via", choices=("auto", "port-forward", "exec"), default="auto",
        help="how to reach the agents (default: port-forward; exec if they require TLS or users)",
    )  # fmt: skip
    cluster.add_argument(
        "--timeout", type=_seconds, default=_TIMEOUT_SECONDS, metavar="SECONDS",
        help=f"how long a node may be silent (default: {_TIMEOUT_SECONDS:.0f})",
    )  # fmt: skip
    if output:
        add_output(parser)


class Fleet:
    """The agents of a cluster."""

    def __init__(self, clients: Sequence[AgentClient]) -> None:
        self._clients = clients
        threads = max(1, min(len(clients), _MAX_THREADS))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="agent")

    @property
    def nodes(self) -> list[str]:
        return [client.agent.node for client in self._clients]

    def query(self, path: str, type_: type[T], **query: str) -> FleetReplies[T]:
        return self.each(lambda client: client.query(path, type_, **query))

    def each(self, ask: Callable[[AgentClient], T]) -> FleetReplies[T]:
        """Return what ``ask`` returns for each agent; a PodtallyError: its node is unreachable."""

        def one(client: AgentClient) -> NodeReply[T] | UnreachableNode:
            try:
                return NodeReply(client.agent.node, ask(client))
            except PodtallyError as error:
                return UnreachableNode(client.agent.node, str(error))

        return _sorted_out(self._pool.map(one, self._clients))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()


def open_fleet(args: argparse.Namespace) -> Fleet:
    """Find the agents that the arguments choose; PodtallyError."""
    interactive = sys.stdin is not None and sys.stdin.isatty()
    access = user_access(args.kubeconfig, args.context or "", os.environ, interactive)
    timing = ClientTiming(response_seconds=max(args.timeout, 10.0))
    agents = find_agents(access, args.agent_namespace, args.node, timing)
    via: Via = args.via
    return Fleet([AgentClient(access, agent, via, args.timeout) for agent in agents])


def report_unreachable(unreachable: Sequence[UnreachableNode], out: TextIO) -> None:
    """Write the nodes that did not answer, one a line."""
    style = style_of(out)
    for each in unreachable[:_MAX_LISTED]:
        text = printable(f"podtally: node {each.node} did not answer: {each.problem}")
        out.write(f"{paint(text, RED, style)}\n")
    if len(unreachable) > _MAX_LISTED:
        out.write(f"podtally: and {len(unreachable) - _MAX_LISTED} more nodes\n")


def short_list(unreachable: Sequence[UnreachableNode]) -> str:
    """Return the nodes that did not answer in one line; "" if there are none."""
    if not unreachable:
        return ""
    named = ", ".join(each.node for each in unreachable[:_MAX_NAMES])
    more = f" and {len(unreachable) - _MAX_NAMES} more" if len(unreachable) > _MAX_NAMES else ""
    return f"did not answer: {named}{more}; {unreachable[0].problem}"


def _sorted_out(found: Iterable[NodeReply[T] | UnreachableNode]) -> FleetReplies[T]:
    replies: list[NodeReply[T]] = []
    unreachable: list[UnreachableNode] = []
    for each in found:
        if isinstance(each, UnreachableNode):
            unreachable.append(each)
        else:
            replies.append(each)
    return FleetReplies(replies, unreachable)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ValueError(text)
    return seconds

# SPDX-License-Identifier: Apache-2.0
"""Reads conversations for ``podtally suggest``: from files, or from the history."""

import argparse
import datetime

import msgspec

from podtally.api import schema
from podtally.commands import flows
from podtally.commands.policies import policy_paths
from podtally.commands.shared import agent_query
from podtally.commands.shared.agent_query import AgentAddress
from podtally.commands.shared.times import parse_age
from podtally.errors import PodtallyError
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.endpoints import NON_POD_NAMESPACES
from podtally.policy.model import HOST, POD, UNKNOWN, PolicyEndpoint
from podtally.runtimes.engines import ENGINE_NAMES
from podtally.suggest.conversation import Conversations, window_of
from podtally.suggest.conversation_files import read_conversations
from podtally.suggest.history_rows import FlowsReply, conversations_of

_COLUMNS = (
    *("namespace", "workload", "initiator", "peer_kind", "peer_namespace", "peer_workload"),
    *("peer_domain", "address", "protocol", "port", "verdict", "outcome"),
)


def read(args: argparse.Namespace) -> Conversations:
    """Return the conversations of the window; PodtallyError if there are none."""
    seconds = parse_age(args.since, "--since")
    if args.sources and args.store:
        raise PodtallyError("--from and --store are both given", "drop one of them")
    found = _from_files(args.sources) if args.sources else _from_history(args, seconds)
    since, until = window_of(found)
    since = max(since, until - seconds)
    kept = [each for each in found.conversations if each.last >= since]
    if not kept:
        raise PodtallyError("no conversations in the window", "give a longer --since")
    # A history that starts later shows nothing of the time before.
    return Conversations(kept, max(since, min(each.first for each in kept)), until)


def agent_of(args: argparse.Namespace) -> AgentAddress:
    """Return where the agent is; --kubeconfig is of --live, not a setting of the agent."""
    where = argparse.Namespace(config=args.config, listen=args.listen)
    return agent_query.agent_address(where)


def _from_files(names: list[str]) -> Conversations:
    """Join the files of several nodes; the window is that of all."""
    parts = [
        read_conversations(
            policy_paths.read_file(name), "stdin" if name == policy_paths.STDIN else name
        )
        for name in names
    ]
    windows = [window_of(part) for part in parts if part.conversations]
    since = min((first for first, _ in windows), default=0.0)
    until = max((last for _, last in windows), default=0.0)
    return Conversations([each for part in parts for each in part.conversations], since, until)


def _from_history(args: argparse.Namespace, seconds: float) -> Conversations:
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    words = {"since": [start.isoformat(timespec="seconds")], "by": [",".join(_COLUMNS)]}
    reply = flows.answer(agent_of(args), words, args.store)
    return conversations_of(msgspec.convert(msgspec.to_builtins(reply), FlowsReply))


def node_cluster(args: argparse.Namespace) -> ClusterModel:
    """Return the pods of the agent's node, as far as it knows them: not their named ports."""
    reply = agent_query.query(agent_of(args), schema.ENDPOINTS, schema.Endpoints)
    pods = [
        ClusterPod(
            _endpoint(row),
            row.workload,
        )
        for row in reply.endpoints
        if row.namespace != UNKNOWN
    ]
    if not pods:
        raise PodtallyError("the agent knows no endpoints", "give --live or --cluster FILE")
    spaces = sorted({pod.endpoint.namespace for pod in pods})
    return ClusterModel(pods, (), [NamespaceModel(name, ()) for name in spaces])


def _endpoint(row: schema.EndpointRow) -> PolicyEndpoint:
    is_host = row.namespace in NON_POD_NAMESPACES and not row.uid
    endpoint = PolicyEndpoint(
        HOST if is_host else POD,
        row.namespace,
        row.pod,
        tuple(sorted(row.labels.items())),
        ips=tuple(ip for ip in map(parse_address, row.addresses) if ip is not None),
        ports=None,
    )
    if not is_host:
        return endpoint
    return endpoint._replace(
        host_network=row.namespace in ("host", "systemd"),
        unit=row.pod if row.namespace == "systemd" else "",
        container=row.pod if row.namespace in ENGINE_NAMES else "",
    )

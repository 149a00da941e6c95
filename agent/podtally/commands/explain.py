# SPDX-License-Identifier: Apache-2.0
"""``podtally explain``: explains why policies allow or deny a connection, step by step."""

import argparse
import os
import sys

from podtally.api import schema
from podtally.api.explanation import explain_connection, parse_port
from podtally.api.name_lookup import (
    KnownName,
    find,
    is_domain_name,
    no_answer,
    unknown_endpoint,
)
from podtally.api.schema import Explanation
from podtally.commands.policies import explanation_text, live_cluster, policy_paths
from podtally.commands.policies.policy_paths import PolicyText
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_cluster_file, print_json
from podtally.errors import PodtallyError
from podtally.policy.cases.case_names import WrittenNames
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import ClusterModel, connection_ends
from podtally.policy.model import ALLOWED, UNDECLARED, PolicyEndpoint

_EPILOG = """\
examples:
  podtally explain shop/frontend shop/backend 3000
  podtally explain ssh.service 203.0.113.10 25/TCP --listen 127.0.0.1:9775
  podtally explain shop/frontend api.example.com 443
  podtally explain shop/frontend shop/backend 3000 --policies policies/ --cluster cluster.yaml
  podtally explain shop/backend 203.0.113.10 3306/TCP --live
  podtally explain shop/backend 203.0.113.10 3306/TCP --live --policies next.yaml

Shows, for the source's egress and the destination's ingress, which policies select it, what
each of their rules says, and which one decides. FROM and TO are NAMESPACE/POD,
NAMESPACE/WORKLOAD (its first pod), or an address; PORT is the pod's own port, not a Service's.
TO may also be a domain name: the address that FROM got for it in its last DNS answer.
By default the running agent explains what it knows now, also with its candidates if it has
any. FROM and TO may then also be `host`, or the name of a unit, a container or a node.
--live reads the cluster from the Kubernetes API and, without --policies, its policies too.
With --policies and --cluster everything is read from files; --names gives DNS answers.
Exit codes: 0 allowed or undeclared, 1 denied or unknown, 2 usage error, unreadable input, or a
fixable problem (no agent answers).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="FROM", help="the endpoint that opens the connection")
    parser.add_argument("destination", metavar="TO", help="the endpoint that it connects to")
    parser.add_argument("port", metavar="PORT[/PROTO]", help="port and protocol (default: TCP)")
    parser.add_argument(
        "--policies", nargs="+", default=[], metavar="PATH", help="policy files and directories"
    )
    add_cluster_file(parser)
    parser.add_argument(
        "--names", metavar="FILE", help="DNS answers that pods got, as in a test case"
    )
    live_cluster.add_arguments(parser, "the cluster and, without --policies, its policies")
    agent_query.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if the connection is allowed or undeclared, else 1."""
    live_cluster.check_arguments(args)
    local = args.policies or args.cluster or args.live or args.names
    explanation = _from_files(args) if local else _from_agent(args)
    if args.output == "json":
        print_json(explanation, sys.stdout)
    else:
        explanation_text.show(explanation, sys.stdout)
    return 0 if explanation.verdict in (ALLOWED, UNDECLARED) else 1


def _from_agent(args: argparse.Namespace) -> Explanation:
    parse_port(args.port)
    query = {"from": args.source, "to": args.destination, "port": args.port}
    return agent_query.query(agent_query.agent_address(args), schema.EXPLAIN, Explanation, **query)


def _from_files(args: argparse.Namespace) -> Explanation:
    for flag, given in (("--listen", args.listen), ("--config", args.config)):
        if given is not None and given != os.environ.get(agent_query.LISTEN_VARIABLE):
            raise PodtallyError(
                f"{flag} is only used to query the running agent",
                "drop it, or drop --policies, --cluster and --live",
            )
    port, protocol = parse_port(args.port)
    written, cluster = _read(args)
    names = policy_paths.read_names(args.names)
    source = _find(args.source, cluster)
    destination = _destination(args.destination, source, cluster, names)
    policy_paths.print_errors(written.problems)
    question = connection_ends(source, destination).question(protocol, port)
    question = question._replace(names=names.known(source, question.destination_ip))
    return explain_connection(question, written.policies)


def _destination(
    text: str, source: PolicyEndpoint, cluster: ClusterModel, names: WrittenNames
) -> PolicyEndpoint:
    """Return the endpoint of the text, which may be a domain name; PodtallyError."""
    if not is_domain_name(text):
        return _find(text, cluster)
    found = names.addresses(source, text)
    if not found:
        raise no_answer(f"{source.namespace}/{source.name}", text)
    return cluster.at(found[0])._replace(ips=found[:1])


def _read(args: argparse.Namespace) -> tuple[PolicyText, ClusterModel]:
    if args.live and args.cluster:
        raise PodtallyError("--live and --cluster are both given", "drop one of them")
    if args.live and not args.policies:
        live = live_cluster.list_all(args)
        return live.written, live.cluster
    if not args.policies or not (args.live or args.cluster):
        raise PodtallyError(
            "no policies or no cluster given", "give --live, or both --policies and --cluster"
        )
    read = live_cluster.list_cluster(args) if args.live else policy_paths.read_cluster(args.cluster)
    return policy_paths.read_policies(args.policies), read


def _find(text: str, cluster: ClusterModel) -> PolicyEndpoint:
    """Return the endpoint of NAMESPACE/NAME or an address; PodtallyError."""
    namespace, slash, name = text.partition("/")
    address = None if slash else parse_address(text)
    if address is not None:
        return cluster.at(address)._replace(ips=(address,))
    known = [
        KnownName(
            member.endpoint.namespace, member.endpoint.name, member.workload, member.over, member
        )
        for member in cluster.members
    ]
    member = find(namespace, name, known) if slash else None
    if member is None:
        raise unknown_endpoint(text, known)
    return member.endpoint

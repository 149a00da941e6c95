# SPDX-License-Identifier: Apache-2.0
"""``podtally explain``: why policies let a connection pass, or not, step by step."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from podtally.api import schema
from podtally.api.explanation import explain_connection, near_names, parse_port
from podtally.api.schema import Explanation, StepRow
from podtally.commands import agent_query, live_cluster, policy_paths
from podtally.commands.columns import BOLD, printable, wants_colour
from podtally.commands.policy_paths import PolicyText
from podtally.errors import PodtallyError
from podtally.policy.cidr import parse_address
from podtally.policy.cluster.model import ClusterModel, connection_ends
from podtally.policy.model import ALLOWED, UNDECLARED, PolicyEndpoint
from podtally.policy.reference.matching import EGRESS, INGRESS

_EPILOG = """\
examples:
  podtally explain shop/frontend shop/backend 3000
  podtally explain ssh.service 203.0.113.10 25/TCP --listen 127.0.0.1:9775
  podtally explain shop/frontend shop/backend 3000 --policies policies/ --cluster cluster.yaml
  podtally explain shop/backend 203.0.113.10 3306/TCP --live
  podtally explain shop/backend 203.0.113.10 3306/TCP --live --policies next.yaml

Tells of the source's egress and of the destination's ingress who isolates, what each rule
says, and what decides. FROM and TO are NAMESPACE/POD, NAMESPACE/WORKLOAD (its first pod is
asked for), or an address; the port is the destination pod's own, not a Service's.
Asks the running agent, of what it knows now; where it has candidates, it tells of them as
well. There FROM and TO may also be `host`, a unit, a container or a node by its name.
With --live the cluster is the one that the Kubernetes API tells of, without --policies the
policies are those that are applied there; with --policies and --cluster all is in files.
Exit codes: 0 it passes (allowed or undeclared), 1 it does not, or that is not known (denied,
unknown), 2 wrong use, no agent answers, or a file or an API that cannot be read.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="FROM", help="who opens the connection")
    parser.add_argument("destination", metavar="TO", help="to whom")
    parser.add_argument("port", metavar="PORT[/PROTO]", help="the protocol is TCP unless told")
    parser.add_argument(
        "--policies", nargs="+", default=[], metavar="PATH", help="files and folders"
    )
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="FILE",
        help="namespaces, nodes and pods, as kubectl get -o yaml tells them; may be repeated",
    )
    live_cluster.add_arguments(parser, "the cluster, and without --policies for what is applied")
    agent_query.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if the connection passes, 1 if not or if that is not known."""
    live_cluster.check_arguments(args)
    told = _of_files(args) if args.policies or args.cluster or args.live else _of_agent(args)
    if args.output == "json":
        agent_query.print_json(told, sys.stdout)
    else:
        show(told, sys.stdout)
    return 0 if told.verdict in (ALLOWED, UNDECLARED) else 1


def _of_agent(args: argparse.Namespace) -> Explanation:
    parse_port(args.port)
    query = {"from": args.source, "to": args.destination, "port": args.port}
    return agent_query.query(agent_query.agent_address(args), schema.EXPLAIN, Explanation, **query)


def _of_files(args: argparse.Namespace) -> Explanation:
    for flag, given in (("--listen", args.listen), ("--config", args.config)):
        if given is not None and given != os.environ.get(agent_query.LISTEN_VARIABLE):
            raise PodtallyError(
                f"{flag} is only used to ask the running agent",
                "drop it, or --policies, --cluster and --live",
            )
    port, protocol = parse_port(args.port)
    written, world = _read(args)
    source, destination = _party(args.source, world), _party(args.destination, world)
    policy_paths.print_errors(written.problems)
    return explain_connection(
        connection_ends(source, destination).question(protocol, port), written.policies
    )


def _read(args: argparse.Namespace) -> tuple[PolicyText, ClusterModel]:
    if args.live and args.cluster:
        raise PodtallyError("--live and --cluster are two clusters", "drop one")
    if args.live and not args.policies:
        live = live_cluster.list_all(args)
        return live.written, live.world
    if not args.policies or not (args.live or args.cluster):
        raise PodtallyError(
            "what to explain it by is not named", "give --live, or --policies and --cluster"
        )
    read = live_cluster.list_cluster(args) if args.live else policy_paths.read_cluster(args.cluster)
    return policy_paths.read_policies(args.policies), read


def show(told: Explanation, out: TextIO) -> None:
    """Write the directions one after the other, and the verdict at the end; then the same with
    the candidates, where they change it.
    """
    title = f"{told.from_} to {told.to}, {told.protocol} {told.port}"
    out.write(f"{_bold(title, out)}\n")
    _show_steps(told, told.steps, out)
    out.write(f"\n{_bold(told.verdict, out)}: {printable(told.reason)}\n")
    would = told.candidate
    if would is None:
        return
    if would.steps == told.steps:
        out.write("\nwith the candidates: the same\n")
        return
    out.write(f"\n{_bold('with the candidates', out)}\n")
    _show_steps(told, would.steps, out)
    verdict, why = _bold(would.verdict, out), printable(would.reason)
    out.write(f"\nwith the candidates {verdict}: {why}\n")


def _show_steps(told: Explanation, steps: Sequence[StepRow], out: TextIO) -> None:
    width = max((len(step.about) for step in steps), default=0)
    for direction, who in ((EGRESS, told.from_), (INGRESS, told.to)):
        out.write(f"\n{_bold(f'{direction} of {who}', out)}\n")
        tier = ""
        for step in (step for step in steps if step.direction == direction):
            if step.tier and step.tier != tier:
                tier = step.tier
                out.write(f"  {tier}\n")
            line = f"    {step.about:<{width}}  {step.says}" if step.about else f"  {step.says}"
            out.write(f"{printable(line)}\n")


def _party(text: str, world: ClusterModel) -> PolicyEndpoint:
    namespace, slash, name = text.partition("/")
    if not slash:
        address = parse_address(text)
        if address is None:
            example = "write NAMESPACE/POD, NAMESPACE/WORKLOAD or an address"
            raise PodtallyError(f"{text!r} is no address", example)
        return world.at(address)._replace(ips=(address,))
    party = world.pod(namespace, name) or world.workload(namespace, name)
    if party is None:
        what = f"the cluster has no pod or workload {text}"
        members = [m for m in world.members if m.party.namespace == namespace]
        told = {name for m in members for name in (m.party.name, m.workload) if name}
        if told:
            near = near_names(text, (f"{namespace}/{name}" for name in told))
            raise PodtallyError(what, f"there are {near}")
        near = near_names(namespace, (m.party.namespace for m in world.members))
        raise PodtallyError(what, f"no pods are in {namespace}, but in {near}")
    return party


def _bold(text: str, out: TextIO) -> str:
    shown = printable(text)
    return f"\x1b[{BOLD}m{shown}\x1b[0m" if wants_colour(out) else shown

# SPDX-License-Identifier: Apache-2.0
"""``podtally suggest``: writes policies from observed traffic, and proves them."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from podtally.commands import observed
from podtally.commands.policies import live_cluster, policy_paths
from podtally.commands.shared import agent_query
from podtally.commands.shared.arguments import add_cluster_file, add_output, print_json
from podtally.errors import PodtallyError
from podtally.policy.cidr import parse_cel
from podtally.policy.cluster.model import ClusterModel
from podtally.policy.model import EGRESS, INGRESS, Network, Policy
from podtally.suggest.conversation import window_of
from podtally.suggest.difference import RuleChange, compare
from podtally.suggest.flows import INCLUDABLE, FlowSums
from podtally.suggest.manifest import manifest
from podtally.suggest.proof import Proof, check_policies, prove
from podtally.suggest.suggestion import (
    CLUSTER_NETWORK_POLICY,
    HOST_POLICY,
    NETWORK_POLICY,
    SuggestedPolicy,
    SuggestionMaker,
    object_name,
)
from podtally.suggest.workloads import WorkloadName, Workloads

_EPILOG = """\
examples:
  podtally suggest shop --live > policies/shop.yaml
  podtally suggest shop/backend --cluster cluster.yaml --since 30d
  podtally suggest shop --live --diff
  podtally suggest --store history.db --live --policies policies/ --write suggested/
  podtally suggest --from node1.json --from node2.json --live
  podtally suggest --live --check policies/new.yaml

Writes a NetworkPolicy for each workload and direction, as narrow as the observed traffic, with
the evidence for each rule. Connections that were denied, failed, were seen once, or have an
unknown verdict are not allowed, and are listed; --include allows them.
Prints a proof: (a) nothing that was seen is denied, (b) how many combinations of workload,
workload and port are possible before and after, (c) no rule, peer, port or label can be left
out, (d) `podtally check` has no findings.
The conversations are those of the running agent's history, of its node; for a cluster give each
node's with --from: what `podtally flows --connections -o json` prints, or rows that docs/policy.md
describes. Without --cluster and --live, the cluster is the endpoints of the agent's node.
Exit codes: 0 the proof holds, 1 it does not, 2 usage error, unreadable input, or a fixable
problem.
"""


_KINDS = {
    "networkpolicy": NETWORK_POLICY,
    "clusternetworkpolicy": CLUSTER_NETWORK_POLICY,
    "hostpolicy": HOST_POLICY,
}


class SuggestedFlowRow(msgspec.Struct, frozen=True):
    flow: str
    connections: int
    bytes: int
    excluded: str


class PossibleRow(msgspec.Struct, frozen=True):
    before: int
    after: int
    seen: int
    every: int  # each n-th combination was judged


class ProofRow(msgspec.Struct, frozen=True):
    holds: bool
    allowed: int  # flows
    set_aside: dict[str, int]  # flows that no rule is for, by reason
    newly_denied: list[SuggestedFlowRow]
    possible: PossibleRow
    removable: list[str]
    findings: list[str]


class PolicyRow(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    direction: str
    workloads: list[str]
    manifest: str
    rules: int
    excluded: list[SuggestedFlowRow]


class ChangeRow(msgspec.Struct, frozen=True):
    change: str
    rule: str
    by: str


class Suggestion(msgspec.Struct, frozen=True):
    """The whole answer, in JSON."""

    since: float
    until: float
    policies: list[PolicyRow]
    changes: list[ChangeRow]
    proof: ProofRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "subject",
        nargs="?",
        default="",
        metavar="NAMESPACE[/WORKLOAD]",
        help="what to write policies for (default: all namespaces)",
    )
    parser.add_argument(
        "--since", default="7d", metavar="AGE", help="the window: 12h, 30d (default: 7d)"
    )
    seen = parser.add_argument_group("the history (default: of the running agent)")
    seen.add_argument(
        "--from",
        dest="sources",
        action="append",
        default=[],
        metavar="FILE",
        help="conversations in JSON, one file for each node; - is standard input; may be repeated",
    )
    seen.add_argument("--store", metavar="FILE", help="a history file, without its agent")
    agent_query.add_address(seen)
    parser.add_argument(
        "--policies", nargs="+", default=[], metavar="PATH", help="declared policies, from files"
    )
    add_cluster_file(parser)
    live_cluster.add_arguments(parser, "the cluster and, without --policies, its policies")
    parser.add_argument(
        "--kind",
        choices=tuple(_KINDS),
        default="networkpolicy",
        help="networkpolicy (default); clusternetworkpolicy, which names domains; hostpolicy, "
        "for units and containers of this host",
    )
    parser.add_argument(
        "--direction", choices=(INGRESS, EGRESS), help="only this direction (default: both)"
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        choices=INCLUDABLE,
        help="also allow what was denied, failed, was seen once, or is unknown; may be repeated",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=CIDR",
        help="a network outside the cluster, written as a whole; may be repeated",
    )
    parser.add_argument(
        "--diff", action="store_true", help="compare with the declared policies, rule by rule"
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="write a file for each policy")
    parser.add_argument(
        "--check", action="append", default=[], metavar="PATH", help="prove these policies instead"
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Return 0 if the proof holds, 1 if it does not."""
    live_cluster.check_arguments(args)
    read = observed.read(args)
    cluster, declared = _cluster(args)
    workloads = Workloads(cluster, read.conversations)
    sums = FlowSums(workloads, args.include)
    sums.add(read.conversations)
    flows = sums.flows()
    if args.check:
        given = policy_paths.read_policies(args.check)
        policy_paths.print_errors(given.problems)
        proof = check_policies(given.policies, flows, declared, workloads)
        return _report(Suggestion(*window_of(read), [], [], _proof_row(proof)), args)
    window = window_of(read)
    directions = (args.direction,) if args.direction else (EGRESS, INGRESS)
    networks, kind = _networks(args), _KINDS[args.kind]
    maker = SuggestionMaker(workloads, window, networks, directions, kind)
    suggested = maker.suggest(flows, _wanted(args.subject, workloads))
    proof = prove(suggested, window, flows, declared, workloads)
    changes = compare(suggested, declared, flows, workloads) if args.diff else []
    rows = [_policy_row(each, window) for each in suggested]
    found = Suggestion(*window, rows, list(map(_change_row, changes)), _proof_row(proof))
    if args.write is not None:
        _write(found, args.write)
    return _report(found, args)


def _cluster(args: argparse.Namespace) -> tuple[ClusterModel, tuple[Policy, ...]]:
    if args.live and args.cluster:
        raise PodtallyError("--live and --cluster are both given", "drop one of them")
    if not args.live and not args.cluster:
        return observed.node_cluster(args), _declared(args.policies)
    if args.live and not args.policies:
        live = live_cluster.list_all(args, controllers=True)
        policy_paths.print_errors(live.written.problems)
        return live.cluster, live.written.policies
    cluster = (
        live_cluster.list_cluster(args, controllers=True)
        if args.live
        else policy_paths.read_cluster(args.cluster)
    )
    return cluster, _declared(args.policies)


def _declared(paths: Sequence[str]) -> tuple[Policy, ...]:
    if not paths:
        return ()
    written = policy_paths.read_policies(paths)
    policy_paths.print_errors(written.problems)
    return written.policies


def _wanted(subject: str, workloads: Workloads) -> list[WorkloadName]:
    namespace, _, name = subject.partition("/")
    found = [
        each
        for each in workloads.names
        if (not namespace or each.namespace == namespace) and (not name or each.name == name)
    ]
    if not found:
        known = ", ".join(str(each) for each in workloads.names[:5])
        raise PodtallyError(f"unknown workload {subject!r}", f"known workloads: {known}, ...")
    return found


def _networks(args: argparse.Namespace) -> Mapping[str, Sequence[Network]]:
    """Return the networks of the arguments, and those of the agent's configuration."""
    found: dict[str, list[Network]] = {}
    configured = [] if args.sources else observed.agent_of(args).config.networks.items()
    given = [(name, text) for name, texts in configured for text in texts]
    for each in args.network:
        name, _, text = each.partition("=")
        if not name or parse_cel(text) is None:
            raise PodtallyError(
                f"--network: {each!r} is not NAME=CIDR", "for example: bank=203.0.113.0/24"
            )
        given.append((name, text))
    for name, text in given:
        cidr = parse_cel(text)
        if cidr is not None:
            found.setdefault(name, []).append(cidr.network())
    return found


def _write(found: Suggestion, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for each in found.policies:
            name = object_name(f"{each.namespace or 'cluster'}-{each.name}")
            (directory / f"{name}.yaml").write_text(each.manifest)
    except OSError as error:
        raise PodtallyError(
            f"{error.filename}: {error.strerror}", "check the path and its permissions"
        ) from None


def _report(found: Suggestion, args: argparse.Namespace) -> int:
    if args.output == "json":
        print_json(found, sys.stdout)
    else:
        if args.write is None and not args.diff:
            sys.stdout.write("---\n".join(each.manifest for each in found.policies))
        for each in found.changes:
            by = f" (declared: {each.by})" if each.by else ""
            sys.stdout.write(f"{each.change}: {each.rule}{by}\n")
        show_proof(found.proof, sys.stdout)
        if args.write is not None:
            print(
                f"podtally: {len(found.policies)} policies in {args.write}; next: podtally check "
                f"{args.write}, then evaluate them (dry run): start the agent with --candidate "
                f"{args.write}, and some seconds later podtally candidates",
                file=sys.stderr,
            )
    return 0 if found.proof.holds else 1


def show_proof(proof: ProofRow, out: TextIO) -> None:
    """Write the proof as comments, so that the output stays YAML."""
    aside = ", ".join(f"{reason} {count}" for reason, count in proof.set_aside.items())
    denied = f"{len(proof.newly_denied)} of {proof.allowed} observed flows would be denied"
    out.write(f"# proof (a): {denied}; not among them: {aside or 'none'}\n")
    for each in proof.newly_denied:
        out.write(f"#   {each.flow}: {each.connections} connections\n")
    possible = proof.possible
    part = f" (estimated from every {possible.every}th)" if possible.every > 1 else ""
    out.write(
        f"# proof (b): possible (workload, workload, port): {possible.before:,} before, "
        f"{possible.after:,} after, {possible.seen:,} seen{part}\n"
    )
    out.write(f"# proof (c): {len(proof.removable)} parts could be left out\n")
    out.writelines(f"#   {each}\n" for each in proof.removable)
    out.write(f"# proof (d): {len(proof.findings)} findings of podtally check\n")
    out.writelines(f"#   {each}\n" for each in proof.findings)


def _policy_row(each: SuggestedPolicy, window: tuple[float, float]) -> PolicyRow:
    return PolicyRow(
        each.policy.namespace,
        each.policy.name,
        each.direction,
        list(map(str, each.workloads)),
        manifest(each, window),
        len(each.rules),
        [SuggestedFlowRow(str(f), f.connections, f.bytes, f.excluded) for f in each.excluded],
    )


def _proof_row(proof: Proof) -> ProofRow:
    denied = [
        SuggestedFlowRow(str(f), f.connections, f.bytes, f.excluded) for f in proof.newly_denied
    ]
    possible = proof.possible
    return ProofRow(
        proof.holds,
        proof.allowed,
        dict(proof.set_aside),
        denied,
        PossibleRow(possible.before, possible.after, possible.seen, possible.every),
        list(proof.removable),
        list(proof.findings),
    )


def _change_row(change: RuleChange) -> ChangeRow:
    return ChangeRow(change.change, change.rule, change.by)

"""``podtally explain``: why policies let a connection pass, or not, step by step."""

import argparse
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from podtally.commands import policy_paths
from podtally.commands.columns import BOLD, wants_colour
from podtally.errors import PodtallyError
from podtally.policy.cidr import parse_address
from podtally.policy.engine import Engine
from podtally.policy.explaining import Step, explain
from podtally.policy.meaning import PROTOCOLS
from podtally.policy.model import ALLOWED, LAST_PORT, UNDECLARED, Party, Question, Verdict
from podtally.policy.reasons import reason
from podtally.policy.rules import EGRESS, INGRESS
from podtally.policy.words import address_words, party_words, protocol_words
from podtally.policy.world import World, ends

_EPILOG = """\
examples:
  podtally explain shop/frontend shop/backend 3000 --policies policies/ --cluster cluster.yaml
  podtally explain shop/backend 203.0.113.10 3306/TCP --policies policies/ --cluster cluster.yaml

Tells of the source's egress and of the destination's ingress who isolates, what each rule
says, and what decides. FROM and TO are NAMESPACE/POD, NAMESPACE/WORKLOAD (its first pod is
asked for), or an address; the port is the destination pod's own, not a Service's.
Exit codes: 0 it passes (allowed or undeclared), 1 it does not, or that is not known (denied,
unknown), 2 wrong use, or a file that cannot be read.
"""


class StepRow(msgspec.Struct, frozen=True):
    direction: str
    tier: str
    about: str
    says: str


class Explained(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What is told in JSON."""

    from_: str
    to: str
    protocol: str
    port: int
    verdict: str
    ingress: str
    egress: str
    reason: str
    steps: tuple[StepRow, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="FROM", help="who opens the connection")
    parser.add_argument("destination", metavar="TO", help="to whom")
    parser.add_argument("port", metavar="PORT[/PROTO]", help="the protocol is TCP unless told")
    parser.add_argument(
        "--policies", nargs="+", required=True, metavar="PATH", help="files and folders"
    )
    parser.add_argument(
        "--cluster",
        action="append",
        required=True,
        metavar="FILE",
        help="namespaces, nodes and pods, as kubectl get -o yaml tells them; may be repeated",
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Return 0 if the connection passes, 1 if not or if that is not known."""
    port, protocol = _port(args.port)
    world = policy_paths.read_world(args.cluster)
    source, destination = _party(args.source, world), _party(args.destination, world)
    question = ends(source, destination).question(protocol, port)
    written = policy_paths.read_policies(args.policies)
    policy_paths.tell(written.problems)
    verdict = Engine(written.policies).judge(question)
    steps = explain(question, written.policies)
    if args.output == "json":
        told = msgspec.json.encode(_explained(question, verdict, steps))
        sys.stdout.write(msgspec.json.format(told, indent=2).decode() + "\n")
    else:
        show(question, verdict, steps, sys.stdout)
    return 0 if verdict.verdict in (ALLOWED, UNDECLARED) else 1


def show(question: Question, verdict: Verdict, steps: Sequence[Step], out: TextIO) -> None:
    """Write the directions one after the other, and the verdict at the end."""
    bold, plain = (f"\x1b[{BOLD}m", "\x1b[0m") if wants_colour(out) else ("", "")
    source, destination = _ends(question)
    protocol = protocol_words(question.protocol)
    out.write(f"{bold}{source} to {destination}, {protocol} {question.port}{plain}\n")
    width = max((len(step.about) for step in steps), default=0)
    for direction, who in ((EGRESS, source), (INGRESS, destination)):
        out.write(f"\n{bold}{direction} of {who}{plain}\n")
        tier = ""
        for step in (step for step in steps if step.direction == direction):
            if step.tier and step.tier != tier:
                tier = step.tier
                out.write(f"  {tier}\n")
            line = f"    {step.about:<{width}}  {step.says}" if step.about else f"  {step.says}"
            out.write(f"{_printable(line)}\n")
    out.write(f"\n{bold}{verdict.verdict}{plain}: {_printable(reason(question, verdict))}\n")


def _explained(question: Question, verdict: Verdict, steps: Sequence[Step]) -> Explained:
    return Explained(
        *_ends(question),
        protocol_words(question.protocol),
        question.port,
        verdict.verdict,
        verdict.ingress.verdict,
        verdict.egress.verdict,
        reason(question, verdict),
        tuple(StepRow(*step) for step in steps),
    )


def _ends(question: Question) -> tuple[str, str]:
    """Names, with the addresses that are used."""
    pairs = (
        (question.source, question.source_ip),
        (question.destination, question.destination_ip),
    )
    words = [(party_words(*pair), address_words(pair[1]) if pair[1] else "") for pair in pairs]
    shown = [f"{name} ({ip})" if ip and ip != name else name for name, ip in words]
    return shown[0], shown[1]


def _party(text: str, world: World) -> Party:
    namespace, slash, name = text.partition("/")
    if not slash:
        address = parse_address(text)
        if address is None:
            example = "write NAMESPACE/POD, NAMESPACE/WORKLOAD or an address"
            raise PodtallyError(f"{text!r} is no address", example)
        return world.at(address)._replace(ips=(address,))
    party = world.pod(namespace, name) or world.workload(namespace, name)
    if party is None:
        near = sorted(m.party.name for m in world.members if m.party.namespace == namespace)
        there = f"there are {', '.join(near[:5])}" if near else f"no pods are in {namespace}"
        raise PodtallyError(f"the cluster has no pod or workload {text}", there)
    return party


def _port(text: str) -> tuple[int, int]:
    number, _, name = text.partition("/")
    protocol = PROTOCOLS.get(name.upper() or "TCP")
    if not number.isascii() or not number.isdecimal() or len(number) > 5 or protocol is None:
        known = ", ".join(PROTOCOLS)
        raise PodtallyError(f"{text!r} is no port", f"write for example 80 or 53/UDP ({known})")
    if not 1 <= int(number) <= LAST_PORT:
        raise PodtallyError(f"{number} is no port", f"it must be between 1 and {LAST_PORT}")
    return int(number), protocol


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)

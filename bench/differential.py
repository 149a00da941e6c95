# SPDX-License-Identifier: Apache-2.0
"""Compare the vector engine with the reference engine, on random probes."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bench.policy_worlds import Maker, Probe, World
from podtally.dns.candidates import NO_NAME_COLUMN, from_lists, name_column
from podtally.dns.known_names import NO_NAMES
from podtally.policy.model import (
    ADDRESS,
    EGRESS,
    INGRESS,
    UNIDENTIFIED,
    VERDICTS,
    DirectionVerdict,
    PolicyEndpoint,
)
from podtally.policy.reference.engine import Engine
from podtally.policy.reference.matching import RuleInput
from podtally.policy.vector.evaluator import ADDRESS_INDEX, Evaluator, PackedConnections

PROBES_A_WORLD = 100
_CHANGES = 2  # of a world, each followed by the same number of probes
_WORD = (1 << 64) - 1


class Difference(NamedTuple):
    seed: int
    probe: Probe
    plain: DirectionVerdict
    compiled: DirectionVerdict


class Outcome(NamedTuple):
    probes: int
    causes: Counter[str]  # of the reference engine's outcomes
    differences: list[Difference]
    strict: int = 0  # probes with another verdict where DNS answers end with their TTL


def run(probes: int, first_seed: int = 0) -> Outcome:
    """Run at least that many probes; a seed makes one world, with its changes."""
    outcome = Outcome(0, Counter(), [])
    seed = first_seed
    while outcome.probes < probes:
        for each in _of_seed(seed):
            outcome.causes.update(each.causes)
            outcome.differences.extend(each.differences)
            outcome = outcome._replace(
                probes=outcome.probes + each.probes, strict=outcome.strict + each.strict
            )
        seed += 1
    return outcome


def _of_seed(seed: int) -> Iterator[Outcome]:
    maker = Maker(seed)
    world = maker.world()
    judge = Evaluator(world.policies, world.endpoints, by_service=world.by_service)
    probes = [maker.probe(world.endpoints) for _ in range(PROBES_A_WORLD)]
    yield _compare(seed, probes, world, judge)
    for _ in range(_CHANGES):
        number = maker.place(len(world.endpoints) + 1)
        endpoint = maker.pod({}, {})
        world.endpoints[number : number + 1] = [endpoint]
        judge.set_endpoint(number, endpoint)
        added = [maker.pod({}, {}) for _ in range(maker.place(3))]
        assert judge.add_endpoints(added) == len(world.endpoints)
        world.endpoints.extend(added)
        policies = [p for p in world.policies if maker.place(5)]
        world = world._replace(policies=[*policies, maker.policy()])
        judge.set_policies(world.policies)
        # Judged again, which shows stale cache entries; and some new ones.
        probes += [maker.probe(world.endpoints) for _ in range(PROBES_A_WORLD // 2)]
        yield _compare(seed, probes, world, judge)


def _compare(seed: int, probes: list[Probe], world: World, judge: Evaluator) -> Outcome:
    judged = judge.judge(connections(probes))
    engine, causes, differs = Engine(world.policies), Counter[str](), 0
    differences = []
    for probe, number, strict in zip(probes, judged.outcome, judged.strict, strict=True):
        conn = asked(probe, world)
        plain, other = engine.direction_verdict(conn), judge.outcome(int(number))
        enforced = engine.direction_verdict(conn._replace(names=conn.names.valid())).verdict
        causes[f"{plain.verdict}: {plain.cause}"] += 1
        differs += enforced != plain.verdict
        if plain != other or VERDICTS[strict] != enforced:
            differences.append(Difference(seed, probe, plain, other))
    return Outcome(len(probes), causes, differences, differs)


def connections(probes: list[Probe]) -> PackedConnections:
    local, peer, ip, protocol, port, is_egress, names = zip(*probes, strict=True)
    candidates = from_lists(
        [each.answers for each in names],
        [each.at for each in names],
        [each.missing for each in names],
    )
    return PackedConnections(
        np.array(local, np.int32),
        np.array(peer, np.int32),
        np.array([address >> 64 for address in ip], np.uint64),
        np.array([address & _WORD for address in ip], np.uint64),
        np.array(protocol, np.int32),
        np.array(port, np.int32),
        np.array(is_egress, np.bool_),
        name_column(candidates) if any(each != NO_NAMES for each in names) else NO_NAME_COLUMN,
    )


def asked(probe: Probe, world: World) -> RuleInput:
    """Return the question for the reference engine."""
    local = world.endpoints[probe.local]
    if probe.peer >= 0:
        peer = world.endpoints[probe.peer]
    else:
        peer = PolicyEndpoint(ADDRESS if probe.peer == ADDRESS_INDEX else UNIDENTIFIED)
    direction, destination = (EGRESS, peer) if probe.is_egress else (INGRESS, local)
    local_ip = local.ips[0] if local.ips else 0
    how = (probe.protocol, probe.port)
    ends = (local, local_ip, peer, probe.ip, destination)
    names = probe.names if probe.is_egress else NO_NAMES
    return RuleInput(direction, *ends, *how, world.by_service, names)

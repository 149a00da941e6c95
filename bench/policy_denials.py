# SPDX-License-Identifier: Apache-2.0
"""Denials by the thousands a second, under a policy of thousands of rules, for ``judge``.

What an epoch does with them: names, verdicts, events, and reasons for the flow log. A pod
scans the ports of an address, addresses that no rule has, and addresses that rules have with
another port; each connection is a new one. The CPU time of the slowest epoch is what counts.
"""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import policy_cluster as cluster
from podtally.identity.addresses import ClaimBook
from podtally.identity.cluster_labels import ClusterLabels
from podtally.identity.model import Endpoint
from podtally.identity.name_table import Names, build_names, build_networks
from podtally.ledger.connections.connections import INITIATOR_ENDPOINT, KEY, Flags
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.connections.new_connections import NewConnections
from podtally.ledger.ledger import Ledger, Limits
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import (
    ALLOW,
    DENIED,
    EVERYTHING,
    TCP,
    Block,
    Network,
    PodSubject,
    Policy,
    PolicyPort,
    Rule,
)

RULES, DENIALS, EPOCHS = 10_000, 10_000, 4
SHAPES = ("ports of an address", "addresses outside all rules", "addresses of the rules")
SEEN = Flags(shift=16, syn_only=256, syn_ack=512)

_SECOND = 1_000_000_000
_MAPPED = 0xFFFF << 32
_LOCAL = _MAPPED | 10 << 24 | 99 << 16 | 2
_BLOCKS = _MAPPED | 10 << 24  # 10.0.0.0/24, 10.0.1.0/24, ...
_OUTSIDE = _MAPPED | 203 << 24


class Epochs(NamedTuple):
    seconds: list[float]  # CPU time of each
    denied: int
    reasons: int  # different ones


def policy(rules: int = RULES) -> Policy:
    """Return a policy of that many blocks, each with its port; it isolates its namespace."""
    written = tuple(
        Rule(
            index,
            ALLOW,
            (Block(Network(_BLOCKS | index << 8, 120)),),
            (PolicyPort(TCP, 1000 + index, 1000 + index),),
        )
        for index in range(rules)
    )
    return Policy("NetworkPolicy", "shop", "many", PodSubject(None, EVERYTHING), None, written)


def run(shape: str, policies: list[Policy], epochs: int = EPOCHS) -> Epochs:
    """The first epoch also compiles the policies, as after a restart."""
    web = Endpoint("shop", "web-0", "web", "Deployment", "kubernetes", (("app", "web"),), "u-web")
    networks = build_networks({})
    names: Names = build_names({7: web}, {}, ClaimBook(networks.owners).table(), networks)
    declared = DeclaredPolicies((*policies, policy()), (), ())
    places = ClusterLabels("n1", {"shop": ()}, {"n1": ()}, known=True)
    limits = Limits(series=10_000, connections=100_000, grace_ns=300 * _SECOND)
    ledger = Ledger(SEEN, limits, keep_closed=True)
    seconds, denied, reasons = [], 0, set[str]()
    for epoch in range(epochs):
        now_ns = (1000 + epoch) * _SECOND
        flows = _flows(shape, epoch, now_ns)
        present = EpochContext(names, now_ns, cluster_labels=places, declared=declared)
        start = time.process_time()
        ledger.attribution.attribute(flows, present, wait=False)
        words = ledger.attribution.explain(flows, [DENIED] * DENIALS, present)
        seconds.append(time.process_time() - start)
        denied += sum("denied by default: shop/many selects it" in text for text in words.reasons)
        reasons.update(words.reasons)
    return Epochs(seconds, denied, len(reasons))


def _flows(shape: str, epoch: int, now_ns: int) -> NewConnections:
    number = np.arange(DENIALS) + epoch * DENIALS
    port = np.full(DENIALS, 7, np.int64)
    if shape == SHAPES[0]:
        low = np.full(DENIALS, _OUTSIDE + epoch, np.uint64)
        port = 1 + number % 65_535
    elif shape == SHAPES[1]:
        low = (_OUTSIDE + number).astype(np.uint64)
    else:
        low = (_BLOCKS + (number % RULES << 8) + 1 + epoch).astype(np.uint64)
    key = np.zeros(DENIALS, KEY)
    key["local_address"] = _words(np.full(DENIALS, _LOCAL, np.uint64))
    key["remote_address"] = _words(low)
    key["ifindex"], key["protocol"] = 7, TCP
    key["local_port"], key["remote_port"] = 40_000 + number % 20_000, port
    nothing = np.zeros(DENIALS, np.uint64)
    initiator = np.full(DENIALS, INITIATOR_ENDPOINT, np.uint8)
    at_ns = np.full(DENIALS, now_ns, np.int64)
    return NewConnections(
        key,
        initiator,
        at_ns,
        nothing,
        nothing.astype(np.int64),
        nothing.astype(np.bool_),
        np.zeros(DENIALS, np.int32),
    )


def _words(low: NDArray[np.uint64]) -> NDArray[np.uint64]:
    both = np.zeros((len(low), 2), np.uint64)
    both[:, 1] = low
    return both.byteswap()


def few(policies: list[Policy]) -> list[Policy]:
    """Return the namespaced policies of the cluster: others would select this pod too."""
    return policies[cluster.CLUSTER_POLICIES :]

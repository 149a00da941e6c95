# SPDX-License-Identifier: Apache-2.0
"""Batches of connections from the words they are remembered by; which a policy has a say in."""

import numpy as np
from numpy.typing import NDArray

from podtally.policy.model import NETWORK_TIER
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.endpoints import EndpointTable
from podtally.policy.vector.label_sets import NO
from podtally.policy.vector.packed_keys import Keys, unpack_keys
from podtally.policy.vector.rule_table import RuleTable
from podtally.policy.vector.rules import Batch, CompiledPolicy, Indices

_ROWS = 1 << 13  # at a time, which bounds what their grades by all rules take


def batch_of(words: Keys, is_egress: bool, parties: EndpointTable) -> Batch:
    """All of one direction."""
    each = unpack_keys(words)
    mine, other = parties.class_of[each.local], parties.class_of[each.peer]
    destination = other if is_egress else mine
    return Batch(mine, other, each.high, each.low, destination, each.protocol, each.port)


def is_own_node(words: Keys, parties: EndpointTable) -> NDArray[np.bool_]:
    """What ``engine.is_own_node`` says."""
    each = unpack_keys(words)
    node = parties.node[each.local]
    at_home = (node != 0) & (node == parties.node[each.peer]) & parties.uses_node[each.peer]
    found: NDArray[np.bool_] = at_home & parties.is_pod[each.local]
    return found


def affected_by(
    one: CompiledPolicy, words: Keys, parties: EndpointTable, classes: EndpointClasses
) -> NDArray[np.bool_]:
    """(n,); connections whose verdict may be another without the policy.

    A policy of an admin tier that none of whose rules matches says nothing; a NetworkPolicy
    isolates even so.
    """
    each = unpack_keys(words)
    grades = classes.table.of_row(one.subject)
    found: NDArray[np.bool_] = grades[parties.class_of[each.local]] != NO
    if one.policy.tier == NETWORK_TIER or one.policy.unreadable:
        return found
    for is_egress in (False, True):
        table = RuleTable([one], is_egress, classes)
        rows = np.flatnonzero(found & (each.is_egress == is_egress))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            found[part] = _some_match(table, batch_of(words[part], is_egress, parties))
    return found


def _some_match(table: RuleTable, batch: Batch) -> NDArray[np.bool_]:
    count = len(table.entries)
    if not count:
        return np.zeros(len(batch.port), np.bool_)
    rows: Indices = np.repeat(np.arange(len(batch.port)), count)
    entries: Indices = np.tile(np.arange(count), len(batch.port))
    met: NDArray[np.bool_] = (
        table.matches(entries, batch, rows).reshape(-1, count).max(axis=1) != NO
    )
    return met

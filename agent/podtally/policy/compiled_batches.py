"""Batches of connections from the words they are remembered by; which a policy has a say in."""

import numpy as np
from numpy.typing import NDArray

from podtally.policy.compiled_labels import NO
from podtally.policy.compiled_parties import Parties
from podtally.policy.compiled_rules import Batch, CompiledPolicy, Matcher
from podtally.policy.compiled_words import Words, unpacked
from podtally.policy.model import NETWORK_TIER


def batch_of(words: Words, is_egress: bool, parties: Parties) -> Batch:
    """All of one direction."""
    each = unpacked(words)
    mine, other = parties.class_of[each.local], parties.class_of[each.peer]
    destination = other if is_egress else mine
    return Batch(mine, other, each.high, each.low, destination, each.protocol, each.port)


def own_node(words: Words, parties: Parties, is_pod: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What ``engine.is_own_node`` says; ``is_pod`` tells it of classes."""
    each = unpacked(words)
    node = parties.node[each.local]
    at_home = (node != 0) & (node == parties.node[each.peer]) & parties.uses_node[each.peer]
    found: NDArray[np.bool_] = at_home & is_pod[parties.class_of[each.local]]
    return found


def concerned(
    one: CompiledPolicy, words: Words, parties: Parties, matcher: Matcher
) -> NDArray[np.bool_]:
    """(n,); connections whose verdict may be another without the policy.

    A policy of an admin tier that none of whose rules matches says nothing; a NetworkPolicy
    isolates even so.
    """
    each = unpacked(words)
    found: NDArray[np.bool_] = (
        matcher.classes.grades(one.subject)[parties.class_of[each.local]] != NO
    )
    if one.policy.tier == NETWORK_TIER or one.policy.unreadable:
        return found
    for is_egress in (False, True):
        rows = np.flatnonzero(found & (each.is_egress == is_egress))
        batch = batch_of(words[rows], is_egress, parties)
        met = np.zeros(len(rows), np.bool_)
        for rule in one.rules(is_egress) or ():
            met |= matcher.grades(rule, batch) != NO
        found[rows] = met
    return found

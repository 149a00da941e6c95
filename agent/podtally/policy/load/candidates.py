# SPDX-License-Identifier: Apache-2.0
"""Policies as they would be with the candidates, and what tells sets of candidates apart."""

import hashlib
from typing import Any

from podtally.config.policy_name import PolicyName
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import Policy
from podtally.policy.names import name_of


def has_candidates(declared: DeclaredPolicies) -> bool:
    """Whether anything is to be judged beside the policies in force."""
    return bool(declared.candidates or declared.deleted)


def with_candidates(declared: DeclaredPolicies) -> list[Policy]:
    """As if the candidates were applied, each in the place of its namesake or beside the rest, and
    what is to be deleted were not there.
    """
    gone = {name_of(policy) for policy in declared.candidates} | set(declared.deleted)
    kept = [policy for policy in declared.policies if name_of(policy) not in gone]
    return [*kept, *declared.candidates]


def missing_deletions(declared: DeclaredPolicies) -> list[PolicyName]:
    """What is to be deleted, but is not there."""
    known = {name_of(policy) for policy in declared.policies}
    return [name for name in map(PolicyName._make, declared.deleted) if name not in known]


def fingerprint(declared: DeclaredPolicies) -> str:
    """Of the candidates, and of the policies in force that they are to replace; "" without any.

    The same after a restart.
    """
    if not has_candidates(declared):
        return ""
    named = {name_of(policy) for policy in declared.candidates} | set(declared.deleted)
    replaced = [policy for policy in declared.policies if name_of(policy) in named]
    texts = (sorted(repr(_stable(p)) for p in each) for each in (declared.candidates, replaced))
    parts = (*texts, sorted(declared.deleted))
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _stable(value: Any) -> Any:
    """The same in another process, where sets have another order."""
    if isinstance(value, frozenset):
        return tuple(sorted(value))
    return tuple(map(_stable, value)) if isinstance(value, tuple) else value

# SPDX-License-Identifier: Apache-2.0
"""Candidate policies (dry run): the policies that would be in force, and their fingerprint."""

import hashlib
from typing import Any

from podtally.config.policy_name import PolicyName
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import Policy
from podtally.policy.names import name_of


def has_candidates(declared: DeclaredPolicies) -> bool:
    """Return whether there is anything to evaluate besides the policies in force."""
    return bool(declared.candidates or declared.deleted)


def with_candidates(declared: DeclaredPolicies) -> list[Policy]:
    """Return the policies as if the candidates were applied and those to be deleted were gone.

    A candidate replaces the policy in force of the same name.
    """
    gone = {name_of(policy) for policy in declared.candidates} | set(declared.deleted)
    kept = [policy for policy in declared.policies if name_of(policy) not in gone]
    return [*kept, *declared.candidates]


def missing_deletions(declared: DeclaredPolicies) -> list[PolicyName]:
    """Return the policies to be deleted that are not in force."""
    known = {name_of(policy) for policy in declared.policies}
    return [name for name in map(PolicyName._make, declared.deleted) if name not in known]


def fingerprint(declared: DeclaredPolicies) -> str:
    """Return a hash of the candidates and the policies that they replace; "" without any.

    It is stable across restarts.
    """
    if not has_candidates(declared):
        return ""
    named = {name_of(policy) for policy in declared.candidates} | set(declared.deleted)
    replaced = [policy for policy in declared.policies if name_of(policy) in named]
    texts = (sorted(repr(_stable(p)) for p in each) for each in (declared.candidates, replaced))
    parts = (*texts, sorted(declared.deleted))
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _stable(value: Any) -> Any:
    """Return the value with sets sorted: their order differs between processes."""
    if isinstance(value, frozenset):
        return tuple(sorted(value))
    return tuple(map(_stable, value)) if isinstance(value, tuple) else value

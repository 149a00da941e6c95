# SPDX-License-Identifier: Apache-2.0
"""Keeps the last good version of objects that the new version of their file breaks."""

from podtally.policy.load.parser import ParsedPolicies
from podtally.policy.model import Policy

_Key = tuple[str, str, str]


def with_last_good(before: ParsedPolicies, now: ParsedPolicies) -> tuple[ParsedPolicies, bool]:
    """Return the new version with the objects kept from the one in force, and whether any was.

    An unreadable object keeps its last good version. If part of the text cannot be parsed, every
    missing object is kept, since it may be in that part.
    """
    good = {_key(policy): policy for policy in before.policies if not policy.unreadable}
    policies = [good.get(_key(p), p) if p.unreadable else p for p in now.policies]
    stale = any(new is not old for new, old in zip(policies, now.policies, strict=True))
    is_lost = bool(now.lost)
    if is_lost:
        named = {_key(policy) for policy in policies}
        missing = [policy for key, policy in good.items() if key not in named]
        if missing:
            reasons = {str(problem) for problem in now.lost}
            policies = [p for p in policies if p.unreadable not in reasons] + missing
            now, stale = now._replace(lost=()), True
    routes = {(i.namespace, i.name): i for i in before.ingresses if not i.unreadable}
    ingresses = [routes.get((i.namespace, i.name), i) if i.unreadable else i for i in now.ingresses]
    stale = stale or any(x is not y for x, y in zip(ingresses, now.ingresses, strict=True))
    if is_lost:
        present = {(ingress.namespace, ingress.name) for ingress in ingresses}
        kept = [ingress for key, ingress in routes.items() if key not in present]
        if kept:
            ingresses, now, stale = ingresses + kept, now._replace(lost=()), True
    return now._replace(policies=tuple(policies), ingresses=tuple(ingresses)), stale


def _key(policy: Policy) -> _Key:
    return policy.kind, policy.namespace, policy.name

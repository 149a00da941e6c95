# SPDX-License-Identifier: Apache-2.0
"""Whether a label selector selects a set of labels: True, False, or None: unknown."""

from functools import lru_cache

from podtally.policy.model import NAMESPACE_NAME_LABEL, Requirement, Selector
from podtally.runtimes.model import Labels

_MAX_CACHED = 1 << 16  # results; clusters have few different label sets


def and3(one: bool | None, other: bool | None) -> bool | None:
    """Return the three-valued and."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


@lru_cache(_MAX_CACHED)
def selects(selector: Selector, labels: Labels | None) -> bool | None:
    """Return the match. Labels None are unknown: only the empty selector certainly selects them."""
    if labels is None:
        return None if selector.requirements else True
    known = dict(labels)
    return all(_holds(requirement, known) for requirement in selector.requirements)


@lru_cache(_MAX_CACHED)
def selects_namespace(selector: Selector, name: str, labels: Labels | None) -> bool | None:
    """Match as ``selects``. The label with the namespace's name is always known.

    The API server sets it, so a manifest may omit it.
    """
    known = dict(labels or ())
    known[NAMESPACE_NAME_LABEL] = name
    doubt = False
    for requirement in selector.requirements:
        if labels is None and requirement.key != NAMESPACE_NAME_LABEL:
            doubt = True
        elif not _holds(requirement, known):
            return False
    return None if doubt else True


def _holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    """Match as apimachinery's ``labels.Requirement.Matches``."""
    key, operator, values = requirement
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":  # "... or there are no labels with the specified key"
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    raise ValueError(f"unsupported label selector operator {operator!r}")

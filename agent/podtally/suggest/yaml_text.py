# SPDX-License-Identifier: Apache-2.0
"""Pieces of YAML text: comments, scalars and label selectors."""

import json
import re
from collections.abc import Iterator

from podtally.policy.model import Requirement, Selector

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED = frozenset(["y", "n", "yes", "no", "true", "false", "on", "off", "null"])


def comment(text: str) -> str:
    """Return a comment of one line: names of peers may contain anything."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text)


def scalar(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value)


def selector_lines(name: str, selector: Selector, indent: int, mark: str = "") -> Iterator[str]:
    margin = " " * indent
    if not selector.requirements:
        yield f"{mark or margin}{name}: {{}}"
        return
    yield f"{mark or margin}{name}:"
    labels = [each for each in selector.requirements if _is_label(each)]
    others = [each for each in selector.requirements if not _is_label(each)]
    if labels:
        yield f"{margin}  matchLabels:"
        for key, _, values in labels:
            yield f"{margin}    {scalar(key)}: {scalar(next(iter(values)))}"
    if others:
        yield f"{margin}  matchExpressions:"
        for key, operator, values in others:
            written = f", values: [{', '.join(map(scalar, sorted(values)))}]" if values else ""
            yield f"{margin}  - {{key: {scalar(key)}, operator: {operator}{written}}}"


def _is_label(requirement: Requirement) -> bool:
    return requirement.operator == "In" and len(requirement.values) == 1

# SPDX-License-Identifier: Apache-2.0
"""Patterns of domain names: a name, or ``*.`` and the name of which it has more labels in front.

Names and patterns are compared in lower case and without a trailing dot (RFC 4343).
"""

WILDCARD = "*."


def normalise(name: str) -> str:
    """Return a name or a pattern as it is compared."""
    return name.lower().removesuffix(".")


def matches(pattern: str, name: str) -> bool:
    """Return whether the name matches: ``*.name`` stands for one or more whole labels before it."""
    if not pattern.startswith(WILDCARD):
        return name == pattern
    suffix = pattern[1:]
    return len(name) > len(suffix) and name.endswith(suffix)


def covers(outer: str, inner: str) -> bool:
    """Return whether the outer pattern matches every name that the inner one matches."""
    return outer == inner or matches(outer, inner.removeprefix(WILDCARD))


def above(pattern: str) -> list[str]:
    """Return all patterns that cover this one."""
    return [pattern, *(WILDCARD + each for each in suffixes(pattern.removeprefix(WILDCARD)))]


def suffixes(name: str) -> list[str]:
    """Return the names of which ``*.`` matches this one, longest first."""
    found = []
    _, dot, rest = name.partition(".")
    while dot:
        found.append(rest)
        _, dot, rest = rest.partition(".")
    return found

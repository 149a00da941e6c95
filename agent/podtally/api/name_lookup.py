# SPDX-License-Identifier: Apache-2.0
"""Finds endpoints by NAMESPACE/NAME, and suggests names where there is none.

The running agent and ``podtally explain`` on files look names up here.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from podtally.errors import PodtallyError
from podtally.policy.cidr import parse_address

T = TypeVar("T")

_MAX_SUGGESTIONS = 5
_MAX_SHOWN = 100  # characters of a name that is unknown


class KnownName(NamedTuple, Generic[T]):
    """A pod's names; of the pods of a workload those that are not ``last`` come first."""

    namespace: str
    name: str
    workload: str
    last: bool
    endpoint: T


def find(namespace: str, name: str, known: Iterable[KnownName[T]]) -> T | None:
    """Return the pod of that name, else the first pod of the workload of that name."""
    there = [each for each in known if each.namespace == namespace]
    for each in there:
        if each.name == name:
            return each.endpoint
    pods = [each for each in there if each.workload == name]
    first = min(pods, key=lambda each: (each.last, each.name), default=None)
    return first.endpoint if first else None


def unknown_endpoint(
    text: str, known: Sequence[KnownName[T]], plain: Iterable[str] = ()
) -> PodtallyError:
    """Return the error for a name that is not among them; ``plain``: names without a namespace."""
    what = f"unknown endpoint {text[:_MAX_SHOWN]!r}"
    namespace, slash, _ = text.partition("/")
    if not slash:
        near = near_names(text, plain)
        also = f", or one of {near}" if near else ""
        return PodtallyError(what, f"use NAMESPACE/POD, NAMESPACE/WORKLOAD, an address{also}")
    names = {(e.namespace, n) for e in known if e.namespace for n in (e.name, e.workload) if n}
    there = near_names(text, (f"{space}/{name}" for space, name in names if space == namespace))
    if there:
        return PodtallyError(what, f"known names: {there}")
    spaces = near_names(namespace, (space for space, _ in names))
    fix = f"known namespaces: {spaces}" if spaces else "see `podtally endpoints` for those known"
    return PodtallyError(what, fix)


def is_domain_name(text: str) -> bool:
    """Return whether the text can be a domain name: a dot, and no address or NAMESPACE/NAME."""
    return "." in text and not {"/", ":"} & set(text) and parse_address(text) is None


def no_answer(source: str, name: str) -> PodtallyError:
    """Return the error for a domain name that the source got no address for."""
    return PodtallyError(
        f"{source} has no DNS answer for {name[:_MAX_SHOWN]!r}",
        "give the address; a rule by name matches only what this pod itself asked for",
    )


def near_names(text: str, names: Iterable[str]) -> str:
    """Return a few of the names, similar ones first, then by name; "" if there are none."""
    known = sorted(set(names))
    near = difflib.get_close_matches(text, known, _MAX_SUGGESTIONS)
    return ", ".join(list(dict.fromkeys((*near, *known)))[:_MAX_SUGGESTIONS])

# SPDX-License-Identifier: Apache-2.0
"""Validation of domain names in rules: the patterns of the CRDs of network-policy-api."""

import re
from collections.abc import Iterator

from podtally.policy.domain_patterns import WILDCARD, normalise
from podtally.policy.problems import Fault, Path, warning
from podtally.policy.validate.names import MAX_LABEL, MAX_SUBDOMAIN
from podtally.yamltree.scalars import brief

MAX_NAMES = 25
# All patterns but the newest say A-z, so a label may start with some symbols, as in _dmarc.
_STRICT_DOMAIN = re.compile(
    r"(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+"
    r"[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?"
)
_DOMAIN = re.compile(
    r"(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+"
    r"[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?"
)


def domain_names(given: tuple[str, ...], path: Path) -> Iterator[Fault]:
    """Check ``domainNames``: "listType=set", at most 25."""
    if not 1 <= len(given) <= MAX_NAMES:
        yield Fault(path, f"must have 1 to {MAX_NAMES} items")
    if len(set(given)) < len(given):
        yield Fault(path, "must not contain duplicates")
    for index, text in enumerate(given):
        yield from _domain_name(text, (*path, index))


def _domain_name(text: str, path: Path) -> Iterator[Fault]:
    if not _DOMAIN.fullmatch(text):
        yield Fault(path, f"invalid domain name {brief(text)}: use the form *.example.com")
        return
    if not _STRICT_DOMAIN.fullmatch(text):
        yield warning(path, f"{brief(text)} has a label starting with a symbol; v1beta1 rejects it")
    name = normalise(text).removeprefix(WILDCARD)
    if len(name) > MAX_SUBDOMAIN:
        yield warning(path, f"never matches: a name has at most {MAX_SUBDOMAIN} characters")
    elif any(len(label) > MAX_LABEL for label in name.split(".")):
        yield warning(path, f"never matches: a label has at most {MAX_LABEL} characters")

# SPDX-License-Identifier: Apache-2.0
"""Policies as a file between two starts of the agent: the last good ones, with their times.

Values are written by the names of their types and fields. A file of another release, whose
types differ, is not read: the policies are then those that the sources give now.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from podtally.policy import ingress, model
from podtally.policy.load.api_resources import ApiPolicyObject
from podtally.policy.load.parser import ParsedPolicies

MAX_AGE_SECONDS = 24 * 3600.0
_HEAD = b"podtally policies "


class KeptFile(NamedTuple):
    good: float  # when it could last be read without an error, since 1970
    parsed: ParsedPolicies  # only readable objects


class KeptResource(NamedTuple):
    confirmed: float  # the last contact with the API, since 1970
    objects: tuple[ApiPolicyObject, ...]


class KeptPolicies(NamedTuple):
    """By path of the file, and by name of the API's resource."""

    files: Mapping[str, KeptFile] = {}
    resources: Mapping[str, KeptResource] = {}

    def recent(self, now: float) -> "KeptPolicies":
        """Return what is not older than MAX_AGE_SECONDS at ``now``."""
        since = now - MAX_AGE_SECONDS
        return KeptPolicies(
            {name: each for name, each in self.files.items() if each.good >= since},
            {name: each for name, each in self.resources.items() if each.confirmed >= since},
        )


NOTHING_KEPT = KeptPolicies()

_TYPES: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(KeptPolicies, KeptFile, KeptResource, ApiPolicyObject, ParsedPolicies),
        *(model.Policy, model.Rule, model.PolicyPort, model.PodSubject, model.HostSubject),
        *(model.PodPeer, model.NodePeer, model.DomainPeer, model.Block, model.Network),
        *(model.Selector, model.Requirement),
        *(ingress.DeclaredIngress, ingress.IngressRoute, ingress.IngressServicePort),
    )
}
_TYPE, _SET, _MAP = "type", "set", "map"


def good_part(parsed: ParsedPolicies) -> ParsedPolicies:
    """Return the readable objects."""
    return ParsedPolicies(
        tuple(each for each in parsed.policies if not each.unreadable),
        tuple(each for each in parsed.ingresses if not each.unreadable),
    )


def encode(kept: KeptPolicies) -> bytes:
    body = json.dumps(_plain(kept), separators=(",", ":")).encode()
    return _HEAD + b"%08x\n" % zlib.crc32(body) + body


def decode(data: bytes) -> KeptPolicies:
    """Return what was encoded; ValueError if it is damaged, or of another release."""
    head, _, body = data.partition(b"\n")
    if head != _HEAD + b"%08x" % zlib.crc32(body):
        raise ValueError("it is damaged")
    try:
        kept = _value(json.loads(body))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is of another release: {error}") from None
    if not isinstance(kept, KeptPolicies):
        raise ValueError("it has no policies")
    return kept


def _plain(value: Any) -> Any:
    kind: Any = type(value)
    if kind.__name__ in _TYPES:
        names = kind._fields if issubclass(kind, tuple) else kind.__struct_fields__
        return {_TYPE: kind.__name__} | {each: _plain(getattr(value, each)) for each in names}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, frozenset):
        return {_TYPE: _SET, "of": sorted(map(_plain, value))}
    if isinstance(value, Mapping):
        return {_TYPE: _MAP, "of": [[key, _plain(each)] for key, each in value.items()]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {kind.__name__} cannot be kept")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return tuple(map(_value, plain))
    if not isinstance(plain, dict):
        return plain
    kind = plain.pop(_TYPE)
    if kind == _SET:
        return frozenset(plain["of"])
    if kind == _MAP:
        return {key: _value(each) for key, each in plain["of"]}
    return _TYPES[kind](**{name: _value(each) for name, each in plain.items()})

"""Plain values into the Structs of ``wire``: strictly, with nulls as the API takes them.

A field that is not in the API is an error, as with ``kubectl apply --validate=strict``; what
values may be is for ``validation``.
"""

from typing import Any, TypeVar

import msgspec

from podtally.policy.problems import Fault
from podtally.policy.scalars import brief
from podtally.policy.tree import MAX_DEPTH
from podtally.shapes import explain, unknown_field

T = TypeVar("T")

_STRING_MAPS = frozenset({"labels", "annotations", "matchLabels"})
_STRING_LISTS = frozenset(
    {"policyTypes", "values", "except", "finalizers", "hosts", "units", "containers"}
)
_NOT_READ = frozenset({"managedFields", "status"})


def built_in_nulls(value: Any, key: str = "", depth: int = 0) -> Any:
    """The value without its nulls, as Go's decoder of built-in types takes them.

    A null field is a missing one; an item of a list or a map is its type's zero value, so that
    ``ingress: [null]`` has an empty rule. ``key`` is the field that the value is in.
    """
    _check_depth(depth)
    if isinstance(value, dict) and key not in _NOT_READ:
        if key in _STRING_MAPS:
            return {name: "" if item is None else item for name, item in value.items()}
        return {
            name: built_in_nulls(item, name, depth + 1)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list) and key not in _NOT_READ:
        zero: Any = "" if key in _STRING_LISTS else {}
        return [zero if item is None else built_in_nulls(item, key, depth + 1) for item in value]
    return _whole(value)


def custom_nulls(value: Any, key: str = "", depth: int = 0) -> Any:
    """The same for custom resources, whose schemas have no ``nullable``: null fields are pruned.

    Items of maps too (apiextensions ``PruneNonNullableNullsWithoutDefaults``), not of lists.
    """
    _check_depth(depth)
    if isinstance(value, dict) and key not in _NOT_READ:
        return {
            name: custom_nulls(item, name, depth + 1)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list) and key not in _NOT_READ:
        return [custom_nulls(item, key, depth + 1) for item in value]
    return _whole(value)


def convert(value: Any, wire: type[T]) -> T | Fault:
    """The object, or the first thing in it that is not of the API's shape."""
    try:
        return msgspec.convert(value, wire)
    except msgspec.ValidationError as error:
        return _fault(error)
    except RecursionError:
        return Fault((), f"nested deeper than {MAX_DEPTH} levels; flatten it")


def _whole(value: Any) -> Any:
    """80.0 is 80 in JSON's eyes, where values do not come from ``tree``."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RecursionError


def _fault(error: msgspec.ValidationError) -> Fault:
    unknown = unknown_field(error)
    if unknown:
        steps, name = unknown
        return Fault((*steps, name), f"there is no field {brief(name)} here; mend its name")
    return Fault(*explain(error))

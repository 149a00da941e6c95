# SPDX-License-Identifier: Apache-2.0
"""Strict decoding of plain values into the structs of this package, with the API's null rules.

An unknown field is an error, as with ``kubectl apply --validate=strict``; values are checked in
``validate``.
"""

from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from podtally.policy.problems import Fault, Path
from podtally.yamltree.scalars import brief
from podtally.yamltree.shapes import explain_mismatch, unknown_field
from podtally.yamltree.suggestion import similar
from podtally.yamltree.tree import MAX_DEPTH

T = TypeVar("T")

_STRING_MAPS = frozenset({"labels", "annotations", "matchLabels"})
_STRING_LISTS = frozenset(
    {"policyTypes", "values", "except", "finalizers", "hosts", "units", "containers"}
)
_UNKNOWN_FIELD = "unknown field "
_MAX_FAULTS = 50  # of an object
_NOT_READ = frozenset({"managedFields", "status"})


def built_in_nulls(value: Any, key: str = "", depth: int = 0) -> Any:
    """Return the value without nulls, as Go decodes built-in types.

    A null field counts as missing; a null item of a list or map is its type's zero value, so
    ``ingress: [null]`` has an empty rule. ``key`` is the field that holds the value.
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
    """Return the value without nulls, as for custom resources with schemas that lack ``nullable``.

    Null fields and map items are pruned (apiextensions ``PruneNonNullableNullsWithoutDefaults``),
    list items are not.
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
    """Return the object, or the first fault against the API's shape."""
    try:
        return msgspec.convert(value, wire)
    except msgspec.ValidationError as error:
        return _fault(error)
    except RecursionError:
        return Fault((), f"nested deeper than {MAX_DEPTH} levels; flatten it")


def convert_all(value: Any, wire: type[T]) -> tuple[T | None, list[Fault]]:
    """Return the object without its malformed fields, and a fault for each of them.

    The object is None if it is malformed as a whole, or if there are too many faults.
    """
    faults: list[Fault] = []
    while len(faults) < _MAX_FAULTS:
        found = convert(value, wire)
        if not isinstance(found, Fault):
            return found, faults
        fault = _suggested(found, wire)
        if any(fault.path[: len(other.path)] == other.path for other in faults):
            return None, faults
        faults.append(fault)
        if not fault.path:
            break
        value = _without(value, fault.path)
        if value is None:
            break
    return None, faults


def _suggested(fault: Fault, wire: Any) -> Fault:
    """Return the fault; for an unknown field with a suggestion."""
    if not fault.message.startswith(_UNKNOWN_FIELD):
        return fault
    given, known = str(fault.path[-1]), _fields(wire, fault.path[:-1])
    close = similar(given, known)
    if not close and {given} | set(known) >= {"from", "to"}:
        close = "to" if given == "from" else "from"
    hint = f'did you mean "{close}"?' if close else f"known: {', '.join(known)}"
    return fault._replace(message=f"{fault.message} ({hint})") if known else fault


def _fields(wire: Any, path: Path) -> list[str]:
    """Return the field names allowed at the path."""
    info: Any = msgspec.inspect.type_info(wire)
    for step in path:
        info = _object_or_list(info)
        if isinstance(info, msgspec.inspect.StructType):
            info = next((f.type for f in info.fields if f.encode_name == step), None)
        else:
            info = getattr(info, "item_type", None)
    info = _object_or_list(info)
    if not isinstance(info, msgspec.inspect.StructType):
        return []
    return [field.encode_name for field in info.fields]


def _object_or_list(info: Any) -> Any:
    """Return the type without null."""
    if isinstance(info, msgspec.inspect.UnionType):
        return next((t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)), None)
    return info


def _without(value: Any, path: Path) -> Any:
    """Return a copy without the field; for a list item, without the list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    if not path:
        return None
    whole = dict(value)
    copy: Any = whole
    for step in path[:-1]:
        part = copy[step]
        copy[step] = dict(part) if isinstance(part, dict) else list(part)
        copy = copy[step]
    copy.pop(path[-1], None)
    return whole


def _whole(value: Any) -> Any:
    """Return 80 for 80.0, which JSON does not distinguish."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RecursionError


def _fault(error: msgspec.ValidationError) -> Fault:
    unknown = unknown_field(error)
    if unknown:
        steps, name = unknown
        return Fault((*steps, name), f'{_UNKNOWN_FIELD}"{brief(name)[1:-1]}"')
    return Fault(*explain_mismatch(error))

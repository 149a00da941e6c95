# SPDX-License-Identifier: Apache-2.0
"""Parses untrusted YAML and JSON into trees of plain values with line numbers.

Time and memory are bounded by the size of the text, its depth, and the number of its nodes
with all aliases expanded. A duplicate key is an error, as for ``kubectl apply``.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from podtally.yamltree.scalars import AMBIGUOUS, ScalarError, brief, integer, real, resolved, tagged

MAX_DEPTH = 100
MAX_NODES = 1_000_000  # of a YAML text; a file of 10,000 policies has some 600,000
MAX_JSON_VALUES = 5_000_000  # of a JSON text: 10,000 pods as the API prints them have 3,000,000

_MAX_WARNINGS = 100
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; flatten it"
_SPACE = re.compile(r"[ \t\r\n]*")
_NO_PARTS: dict[str | int, "TreeNode"] = {}
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "!")


class TreeError(Exception):
    """The text is invalid; ``line`` starts at 1, and is 0 if unknown."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class TreeNode:
    """A value, its line, and the nodes of its parts."""

    __slots__ = ("depth", "line", "parts", "size", "value")

    def __init__(self, value: Any, line: int) -> None:
        self.value = value
        self.line = line
        self.parts: dict[str | int, TreeNode] = {} if isinstance(value, dict | list) else _NO_PARTS
        self.size = 1  # nodes, with aliases expanded; 0 while it is read
        self.depth = 0  # levels below it

    def line_at(self, path: tuple[str | int, ...]) -> int:
        """Return the line of the part, or of its nearest existing parent."""
        node = self
        for step in path:
            part = node.parts.get(step)
            if part is None:
                break
            node = part
        return node.line


class TreeBudget:
    """The limit of nodes for all documents of a text, and the warnings in them."""

    def __init__(self) -> None:
        self.spent = 0
        self.warnings: list[tuple[int, str]] = []  # the first ones: line and message

    def warn(self, line: int, message: str) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append((line, message))

    def spend(self, nodes: int, line: int) -> None:
        self.spent += nodes
        if self.spent > MAX_NODES:
            message = f"more than {MAX_NODES} values; split it, use fewer aliases, or write JSON"
            raise TreeError(line, message)


class _Open(NamedTuple):
    """A collection that is still open."""

    node: TreeNode
    before: int  # nodes spent before it
    keys: list[tuple[str, int]]  # the key that has no value yet, if any
    merged: list[TreeNode]


class _Composer:
    """Builds the nodes of one document from parser events."""

    def __init__(self, first_line: int, budget: TreeBudget) -> None:
        self._first_line = first_line
        self._budget = budget
        self._open: list[_Open] = []
        self._anchors: dict[str, TreeNode] = {}
        self.root: TreeNode | None = None

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        line = self._first_line + (mark.line if mark else 0)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(TreeNode({}, line), event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(TreeNode([], line), event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, line)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._budget.spend(1, line)
        if event.value in AMBIGUOUS and event.implicit[0] and event.tag is None:
            message = f"{event.value} is text here, but a boolean for kubectl: quote it"
            self._budget.warn(line, message)
        if self._wants_key():
            self._open[-1].keys.append((_key(event, line), line))
            return
        node = TreeNode(_scalar_value(event, line), line)
        self._name(event.anchor, node)
        self._put(node)

    def _begin(self, node: TreeNode, event: yaml.CollectionStartEvent) -> None:
        self._budget.spend(1, node.line)
        if len(self._open) >= MAX_DEPTH:
            raise TreeError(node.line, _TOO_DEEP)
        if self._wants_key():
            raise TreeError(node.line, "a mapping's key must be plain text")
        if event.tag and event.tag not in _COLLECTIONS:
            raise TreeError(node.line, f"unknown tag {brief(event.tag)}; drop it")
        node.size = 0
        self._name(event.anchor, node)
        self._open.append(_Open(node, self._budget.spent - 1, [], []))

    def _end(self) -> None:
        node, before, _, merged = self._open.pop()
        for other in merged:  # own keys override merged ones
            for key, part in other.parts.items():
                if key not in node.parts:
                    self._budget.spend(part.size, node.line)
                    node.parts[key] = part
                    node.value[key] = part.value
                    node.depth = max(node.depth, part.depth + 1)
        node.size = self._budget.spent - before
        self._put(node)

    def _alias(self, event: yaml.AliasEvent, line: int) -> None:
        name = event.anchor or ""
        target = self._anchors.get(name)
        if target is None:
            raise TreeError(line, f"unknown anchor {brief(name)}")
        if target.size == 0:
            raise TreeError(line, f"the anchor {brief(name)} contains itself; remove the cycle")
        if self._wants_key():
            raise TreeError(line, "a mapping's key must be plain text, not an alias")
        if len(self._open) + target.depth > MAX_DEPTH:
            raise TreeError(line, _TOO_DEEP)
        self._budget.spend(target.size, line)
        self._put(target)

    def _name(self, anchor: str | None, node: TreeNode) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _wants_key(self) -> bool:
        return (
            bool(self._open)
            and isinstance(self._open[-1].node.value, dict)
            and (not self._open[-1].keys)
        )

    def _put(self, node: TreeNode) -> None:
        if not self._open:
            self.root = node
            return
        parent, _, keys, merged = self._open[-1]
        parent.depth = max(parent.depth, node.depth + 1)
        if isinstance(parent.value, list):
            parent.parts[len(parent.value)] = node
            parent.value.append(node.value)
            return
        key, line = keys.pop()
        if key == "<<":
            merged.extend(_mappings(node, line))
            return
        if key in parent.parts:
            raise TreeError(line, f"the key {brief(key)} is given twice; keep one")
        parent.parts[key] = node
        parent.value[key] = node.value


def yaml_trees(text: str, budget: TreeBudget, first_line: int = 1) -> Iterator[TreeNode]:
    """Yield the documents of a YAML text; TreeError."""
    try:
        composer = _Composer(first_line, budget)
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.DocumentStartEvent):
                composer = _Composer(first_line, budget)
            elif isinstance(event, yaml.DocumentEndEvent):
                if composer.root is not None:
                    yield composer.root
            else:
                composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + first_line if mark else 0
        if mark and _open_brackets(text[: mark.index]) > MAX_DEPTH:
            raise TreeError(line, _TOO_DEEP) from None
        raise TreeError(line, f"not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise TreeError(0, f"not YAML: {brief(str(error))}") from None


def _open_brackets(text: str) -> int:
    """Return roughly how deep flow collections are nested at the end of ``text`` (ignores quotes).

    Recent parsers refuse deep nesting themselves, with another message, before the events of
    the first levels arrive.
    """
    return sum(text.count(sign) for sign in "[{") - sum(text.count(sign) for sign in "]}")


def yaml_document(text: str) -> TreeNode | None:
    """Return the only document of a text, None if there is none; TreeError."""
    documents = list(yaml_trees(text, TreeBudget()))
    if len(documents) > 1:
        raise TreeError(documents[1].line, "a second document; drop it")
    return documents[0] if documents else None


def json_values(text: str) -> Iterator[Any]:
    """Yield the values of a JSON text; TreeError."""
    if sum(text.count(sign) for sign in ",[{") > MAX_JSON_VALUES:
        raise TreeError(0, f"more than {MAX_JSON_VALUES} values; split it")
    decoder = json.JSONDecoder(
        object_pairs_hook=_object, parse_constant=_no_constant, parse_int=integer, parse_float=real
    )
    at = _end_of_space(text, 0)
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ScalarError as error:
            raise TreeError(0, str(error)) from None
        except json.JSONDecodeError as error:
            raise TreeError(error.lineno, f"not JSON: {error.msg}") from None
        except RecursionError:
            raise TreeError(0, _TOO_DEEP) from None
        if _is_too_deep(value):
            raise TreeError(0, _TOO_DEEP)
        at = _end_of_space(text, at)
        yield value


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH + 1):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = next(key for key, count in times.items() if count > 1)
        raise TreeError(0, f"the key {brief(twice)} is given twice; keep one")
    return found


def _no_constant(text: str) -> Any:
    raise TreeError(0, f"{text} is not a number here; use digits")


def _mappings(node: TreeNode, line: int) -> list[TreeNode]:
    """Return what ``<<`` merges: a mapping or a list of them (yaml.org/type/merge.html)."""
    found = list(node.parts.values()) if isinstance(node.value, list) else [node]
    if not all(isinstance(part.value, dict) for part in found):
        raise TreeError(line, "only mappings can be merged by '<<'")
    return found


def _key(event: yaml.ScalarEvent, line: int) -> str:
    value = event.value if event.value == "<<" else _scalar_value(event, line)
    if value is None:
        raise TreeError(line, "a mapping's key is empty; name it, or quote it")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _scalar_value(event: yaml.ScalarEvent, line: int) -> Any:
    text, tag = event.value, event.tag
    if tag == "!" or (tag is None and not event.implicit[0]):
        return text  # in quotes
    try:
        return resolved(text) if tag is None else tagged(text, tag)
    except ScalarError as error:
        raise TreeError(line, str(error)) from None

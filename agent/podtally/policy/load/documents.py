# SPDX-License-Identifier: Apache-2.0
"""Split text into documents: one object each, with its kind and lines; the content stays plain.

A text may hold many YAML documents, JSON values and lists of objects. One that cannot be parsed
hides no other: pieces are split where kubectl splits them. Without apiVersion and kind it is not
an object (a Helm chart's values): it is skipped with a warning.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from podtally.policy.load import salvage
from podtally.policy.problems import WARNING, Path, Problem
from podtally.policy.schema.kinds import is_policy
from podtally.yamltree.scalars import brief
from podtally.yamltree.suggestion import similar
from podtally.yamltree.tree import TreeBudget, TreeError, TreeNode, json_values, yaml_trees

MAX_BYTES = 64 << 20  # 10,000 pods as the API prints them
MAX_PIECES = 50_000
_MAX_LOCATED = 8 << 20  # characters of JSON parsed again to find a line
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class LineMap:
    """The line of each field of a document; JSON is parsed again on first use."""

    def __init__(
        self, node: TreeNode | None, first: int = 0, text: str = "", index: int = 0
    ) -> None:
        self._node = node
        self._first = first
        self._json = text  # the JSON text that holds it, until its lines are needed
        self._index = index  # of the value in that text
        self._whole = self  # of a part: the document, which is located once for all parts
        self._below: Path = ()

    def below(self, path: Path) -> "LineMap":
        """Return the lines of a part."""
        part = LineMap(None)
        part._whole, part._below = self._whole, self._below + path
        return part

    def at(self, path: Path) -> int:
        """Return the line of the field or its nearest parent; 0 if unknown."""
        whole = self._whole
        if whole._node is None and whole._json:
            whole._node, whole._json = _locate(whole._json, whole._index), ""
        return whole._node.line_at(self._below + path) if whole._node else whole._first


class Document(NamedTuple):
    """An object as written."""

    source: str
    api_version: str  # "" if missing
    kind: str
    content: dict[str, Any]
    lines: LineMap

    def problem(self, path: Path, message: str) -> Problem:
        return Problem(self.source, self.lines.at(path), self.subject(), "", message)

    def subject(self) -> str:
        """Return kind and name, as far as present: "NetworkPolicy shop/allow"."""
        metadata = self.content.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        words = [given.get(key) for key in ("namespace", "name")]
        name = "/".join(brief(word)[1:-1] for word in words if isinstance(word, str) and word)
        return " ".join(filter(None, (brief(self.kind)[1:-1], name)))


class LostText(NamedTuple):
    """A piece of text that could not be parsed, and the policies it may hold."""

    problem: Problem  # also among the text's problems
    policies: tuple[Document, ...]  # kind and namespace only, see ``salvage``


class ParsedText(NamedTuple):
    """The documents and problems of a text."""

    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]
    lost: tuple[LostText, ...] = ()
    blank: bool = False  # nothing but comments


def read_text(text: str | bytes, source: str) -> ParsedText:
    """Parse a text; ``source`` names it in problems, usually a file."""
    found = _TextBuilder(source)
    try:
        plain = _decode(text)
    except TreeError as error:
        found.lose(error.line, error.message, _readable(text))
        return found.text()
    pieces, budget = _pieces(plain), TreeBudget()
    for count, (piece, first_line) in enumerate(pieces):
        if count >= MAX_PIECES:
            message = f"more than {MAX_PIECES} documents; the rest is ignored: split the file"
            found.lose(first_line, message, "")
            break
        try:
            for value, lines in _values(piece, first_line, budget):
                found.take(value, lines)
        except TreeError as error:
            line = (error.line or first_line) - first_line + 1
            line, message = salvage.with_likely_cause(piece, line, error.message)
            found.lose(line + first_line - 1, message, piece)
    for line, message in budget.warnings:
        found.warn(line, message)
    return found.text()


class _TextBuilder:
    """Collects the documents and problems of a text."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._documents: list[Document] = []
        self._problems: list[Problem] = []
        self._lost: list[LostText] = []
        self._is_blank = True

    def text(self) -> ParsedText:
        blank = self._is_blank and not self._lost
        return ParsedText(tuple(self._documents), tuple(self._problems), tuple(self._lost), blank)

    def warn(self, line: int, message: str) -> None:
        self._problems.append(Problem(self._source, line, "", "", message, WARNING))

    def lose(self, line: int, message: str, piece: str) -> None:
        self._miss(Problem(self._source, line, "", "", message), salvage.salvaged(piece))

    def take(self, value: Any, lines: LineMap, kind: str = "") -> None:
        """Add the object, or those of a list; ``kind`` is the list's, for items without a kind."""
        if value is None or value == {}:
            return
        self._is_blank = False
        if not isinstance(value, dict):
            self.warn(
                lines.at(()), "skipped, not an object: apiVersion, kind, metadata are required"
            )
            return
        api_version, own_kind = value.get("apiVersion"), value.get("kind")
        document = Document(
            self._source,
            api_version if isinstance(api_version, str) else "",
            own_kind if isinstance(own_kind, str) else kind,
            value,
            lines,
        )
        if document.kind.endswith("List") and not kind:
            self._take_list(document)
        elif isinstance(own_kind, str) and own_kind and document.api_version:
            self._documents.append(document)
        elif is_policy(document.api_version, document.kind):
            self._documents.append(document)  # the parser reports what is missing
        else:
            lacks = "apiVersion" if not document.api_version else "kind"
            message = f"skipped, not a Kubernetes object: {lacks} is missing or not a string"
            problem = document.problem((lacks,), message)
            self._problems.append(problem._replace(severity=WARNING))

    def _take_list(self, document: Document) -> None:
        items = document.content.get("items")
        of = document.kind.removesuffix("List")
        if items is not None and not isinstance(items, list):
            self._miss(document.problem(("items",), "must be a list"), [])
            return
        if "items" not in document.content:
            like = similar("items", document.content)
            if like:
                message = f'unknown field {brief(like)} (did you mean "items"?)'
                self._miss(document.problem((like,), message), [])
            else:
                message = "has no items; remove it, or add some"
                problem = document.problem((), message)
                self._problems.append(problem._replace(severity=WARNING))
            return
        for index, item in enumerate(items or ()):
            within = _inherit(item, document.api_version, of)
            self.take(within, document.lines.below(("items", index)), of or "?")

    def _miss(self, problem: Problem, policies: list[dict[str, Any]]) -> None:
        self._problems.append(problem)
        found = tuple(
            Document(self._source, content["apiVersion"], content["kind"], content, LineMap(None))
            for content in policies
        )
        self._lost.append(LostText(problem, found))


def _readable(text: str | bytes) -> str:
    """Return the readable part of a text that is too long or not UTF-8."""
    cut = text[:MAX_BYTES]
    return cut if isinstance(cut, str) else cut.decode("utf-8", "replace")


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise TreeError(0, f"more than {MAX_BYTES >> 20} MiB; split it")
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise TreeError(line, "not UTF-8; save it as UTF-8") from None


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Split at lines of three hyphens, as apimachinery's ``YAMLReader``; yield text, first line."""
    start, line, first_line = 0, 1, 1
    for found in re.finditer(r"^---[ \t\r]*(?:#.*)?$", text, re.MULTILINE):
        line = first_line + text.count("\n", start, found.end()) + 1
        if text[start : found.start()].strip():
            yield text[start : found.start()], first_line
        start, first_line = min(found.end() + 1, len(text)), line
    if text[start:].strip():
        yield text[start:], first_line


def _values(piece: str, first_line: int, budget: TreeBudget) -> Iterator[tuple[Any, LineMap]]:
    """Parse as JSON if it starts like JSON (much faster); otherwise, or if that fails, as YAML."""
    if piece.lstrip()[:1] == "{":
        try:
            values = list(json_values(piece))
            if _SURROGATE.search(piece):
                json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise TreeError(first_line, "unpaired surrogate; write the character itself") from None
        except TreeError:
            commented = salvage.comment_in_json(piece)
            if commented:
                line = first_line + commented - 1
                raise TreeError(line, "JSON has no comments; remove them") from None
            comma = salvage.trailing_comma(piece)
            if comma:
                message = "trailing comma is not valid JSON, parsed as YAML: remove it"
                budget.warn(first_line + comma - 1, message)
        else:
            padded = "\n" * (first_line - 1) + piece
            for index, value in enumerate(values):
                yield value, LineMap(None, first_line, padded, index)
            return
    for node in yaml_trees(piece, budget, first_line):
        yield node.value, LineMap(node)


def _locate(text: str, index: int) -> TreeNode | None:
    """Parse JSON as YAML to find lines; None where that fails."""
    if len(text) > _MAX_LOCATED or index:
        return None
    try:
        return next(yaml_trees(text, TreeBudget()), None)
    except TreeError:
        return None


def _inherit(item: Any, api_version: str, kind: str) -> Any:
    """Return an item with the list's kind; items in an API response have none of their own."""
    if not isinstance(item, dict) or not kind or "kind" in item:
        return item
    return {"apiVersion": api_version, "kind": kind, **item}

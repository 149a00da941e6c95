"""Texts into documents: one object each, with its kind and its lines; what it says is not read.

A text may hold many YAML documents, JSON values, and lists of objects. One that cannot be
read is a problem of its own and hides no other: pieces are split where kubectl splits them.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from podtally.policy.problems import WARNING, Path, Problem
from podtally.policy.scalars import brief
from podtally.policy.tree import Budget, Node, TreeError, json_values, yaml_trees

MAX_BYTES = 64 << 20  # 10,000 pods as the API prints them
MAX_PIECES = 50_000
_MAX_LOCATED = 8 << 20  # characters of JSON that are read again, to tell a line
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Lines:
    """Where the fields of a document stand."""

    def __init__(self, node: Node | None, first: int = 0, text: str = "", index: int = 0) -> None:
        self._node = node
        self._first = first
        self._json = text  # the JSON text that it is in, whose lines are told when asked for
        self._index = index  # which of the values in it
        self._whole = self  # of a part: what it is a part of, which is located once for all
        self._below: Path = ()

    def below(self, path: Path) -> "Lines":
        """Those of a part."""
        part = Lines(None)
        part._whole, part._below = self._whole, self._below + path
        return part

    def at(self, path: Path) -> int:
        """The line of the field, or of what is nearest around it; 0 if it cannot be told."""
        whole = self._whole
        if whole._node is None and whole._json:
            whole._node, whole._json = _locate(whole._json, whole._index), ""
        return whole._node.line_at(self._below + path) if whole._node else whole._first


class Document(NamedTuple):
    """An object as it was written."""

    source: str
    api_version: str  # "" where it is missing
    kind: str
    content: dict[str, Any]
    lines: Lines

    def problem(self, path: Path, message: str) -> Problem:
        return Problem(self.source, self.lines.at(path), self.subject(), "", message)

    def subject(self) -> str:
        """What it is, as far as it says so: "NetworkPolicy shop/allow"."""
        metadata = self.content.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        words = [given.get(key) for key in ("namespace", "name")]
        name = "/".join(brief(word)[1:-1] for word in words if isinstance(word, str) and word)
        return " ".join(filter(None, (brief(self.kind)[1:-1], name)))


class Text(NamedTuple):
    """All that a text holds."""

    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]  # errors: what could not be read of it


def read_text(text: str | bytes, source: str) -> Text:
    """``source`` is the name for problems: a file, mostly."""
    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        plain = _decode(text)
    except TreeError as error:
        return Text((), (Problem(source, error.line, "", "", error.message),))
    pieces, budget = _pieces(plain), Budget()
    for count, (piece, first_line) in enumerate(pieces):
        if count >= MAX_PIECES:
            message = f"more than {MAX_PIECES} documents; the rest is not read: split the file"
            problems.append(Problem(source, first_line, "", "", message))
            break
        try:
            for value, lines in _values(piece, first_line, budget):
                documents.extend(_objects(value, lines, source, problems))
        except TreeError as error:
            problems.append(Problem(source, error.line or first_line, "", "", error.message))
    for line, doubtful in budget.doubts:
        message = f"{doubtful} is text here, and a truth value to kubectl: put it in quotes"
        problems.append(Problem(source, line, "", "", message, WARNING))
    return Text(tuple(documents), tuple(problems))


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        raise TreeError(0, f"more than {MAX_BYTES >> 20} MiB; split it")
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise TreeError(line, "not UTF-8; save it as that") from None


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Split at lines of three hyphens, as apimachinery's ``YAMLReader`` does; with first lines."""
    start, line, first_line = 0, 1, 1
    for found in re.finditer(r"^---[ \t\r]*(?:#.*)?$", text, re.MULTILINE):
        line = first_line + text.count("\n", start, found.end()) + 1
        if text[start : found.start()].strip():
            yield text[start : found.start()], first_line
        start, first_line = min(found.end() + 1, len(text)), line
    if text[start:].strip():
        yield text[start:], first_line


def _values(piece: str, first_line: int, budget: Budget) -> Iterator[tuple[Any, Lines]]:
    """As JSON where it begins like it (which is much faster), else or if that fails as YAML."""
    if piece.lstrip()[:1] == "{":
        try:
            values = list(json_values(piece))
            if _SURROGATE.search(piece):
                json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise TreeError(first_line, "half a surrogate pair; write the character") from None
        except TreeError:
            pass
        else:
            padded = "\n" * (first_line - 1) + piece
            for index, value in enumerate(values):
                yield value, Lines(None, first_line, padded, index)
            return
    for node in yaml_trees(piece, budget, first_line):
        yield node.value, Lines(node)


def _locate(text: str, index: int) -> Node | None:
    """JSON is YAML, nearly; where it is not, the line of the field is not told."""
    if len(text) > _MAX_LOCATED or index:
        return None
    try:
        return next(yaml_trees(text, Budget()), None)
    except TreeError:
        return None


def _objects(
    value: Any, lines: Lines, source: str, problems: list[Problem], kind: str = ""
) -> Iterator[Document]:
    """The object, or the objects of a list; ``kind`` is what a list of one kind leaves out."""
    if value is None or value == {}:
        return
    if not isinstance(value, dict):
        message = "not an object: it needs apiVersion, kind and metadata"
        problems.append(Problem(source, lines.at(()), "", "", message))
        return
    api_version, own_kind = value.get("apiVersion"), value.get("kind")
    document = Document(
        source,
        api_version if isinstance(api_version, str) else "",
        own_kind if isinstance(own_kind, str) else kind,
        value,
        lines,
    )
    items = value.get("items")
    if document.kind.endswith("List") and not kind and (items is None or isinstance(items, list)):
        of = document.kind.removesuffix("List")
        for index, item in enumerate(items or ()):
            within = _inherit(item, document.api_version, of)
            yield from _objects(within, lines.below(("items", index)), source, problems, of or "?")
        return
    for name, given in (("apiVersion", document.api_version), ("kind", own_kind)):
        if not given or not isinstance(given, str):
            problems.append(document.problem((name,), f"{name} is missing or no text; give it"))
            return
    yield document


def _inherit(item: Any, api_version: str, kind: str) -> Any:
    """Items of an answer of the API have no kind of their own: the list's says it."""
    if not isinstance(item, dict) or not kind or "kind" in item:
        return item
    return {"apiVersion": api_version, "kind": kind, **item}

# SPDX-License-Identifier: Apache-2.0
"""Finds the policies mentioned in text with a syntax error, and the likely cause of the error.

A kind and its namespaces are enough to limit what the text puts in doubt. Text that names no
policy kind holds none; neither does a template, which must be rendered before it is applied.
"""

import re
from typing import Any

from podtally.policy.schema import kinds
from podtally.policy.validate.names import dns_label

_MAX_CHARACTERS = 8 << 20  # examined
_KIND = re.compile(r"""["']?\bkind["']?[ \t]*:[ \t]*["']?([A-Za-z]{1,63})\b""")
_NAMESPACE = re.compile(r"""["']?\bnamespace["']?[ \t]*:[ \t]*["']?([^\s"',}#]{0,64})""")
_TEMPLATE = re.compile(r"\{\{[-\s\w.$\"(/]")
_PLACEHOLDER = re.compile(r"\$\{\w{1,64}[^}\n]{0,64}\}|\$\(\w{1,64}\)|<%[=\s]")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_JSON = re.compile(r'\s*\{\s*(?:["}]|//|/\*)')
_COMMENT = re.compile(r"(?:^|[\s,{\[])(?://|/\*)", re.MULTILINE)
_COMMA = re.compile(r",\s*[}\]]")


def salvaged(piece: str) -> list[dict[str, Any]]:
    """Return objects with apiVersion, kind and namespace for the policies in broken text."""
    text = piece[:_MAX_CHARACTERS]
    if is_template(text):
        return []
    found = dict.fromkeys(kind for kind in _KIND.findall(text) if kind in kinds.API_VERSIONS)
    namespaces: list[Any] = list(dict.fromkeys(_NAMESPACE.findall(text))) or [None]
    if any(name is not None and dns_label(name) for name in namespaces):
        namespaces = [{}]  # there is one, but it is unknown
    return [
        _stand_in(kind, namespace)
        for kind in found
        for namespace in (namespaces if kind in ("NetworkPolicy", "Ingress") else (None,))
    ]


def is_template(text: str) -> bool:
    return bool(_TEMPLATE.search(text) or _PLACEHOLDER.search(text))


def with_likely_cause(piece: str, line: int, message: str) -> tuple[int, str]:
    """Return line and message of a YAML error, with its likely cause."""
    found = _TEMPLATE.search(piece)
    if found:
        at = piece.count("\n", 0, found.start()) + 1
        return at, f"a template, not an object ({message}): render it first, as helm template does"
    found = _PLACEHOLDER.search(piece)
    if found:
        at = piece.count("\n", 0, found.start()) + 1
        what = f"the placeholder {found.group()[:40]} is not filled in"
        return at, f"{what} ({message}): fill it in first, as envsubst does"
    if "\t" in piece and "cannot start any token" in message:
        return line, f"{message}: indent with spaces, YAML does not allow tabs"
    return line, message


def comment_in_json(piece: str) -> int:
    """Return the line of the first comment in text that looks like JSON; 0 if none."""
    return _line_of(_COMMENT, piece)


def trailing_comma(piece: str) -> int:
    """Return the line of the first trailing comma; 0 if none."""
    return _line_of(_COMMA, piece)


def _line_of(sign: re.Pattern[str], piece: str) -> int:
    if not _JSON.match(piece) or len(piece) > _MAX_CHARACTERS:
        return 0
    found = sign.search(_STRING.sub(lambda string: "_" * len(string.group()), piece))
    if not found:
        return 0
    at = found.start() + (found.group()[:1].isspace() if sign is _COMMENT else 0)
    return piece.count("\n", 0, at) + 1


def _stand_in(kind: str, namespace: Any) -> dict[str, Any]:
    metadata = {} if namespace is None else {"namespace": namespace}
    return {"apiVersion": kinds.API_VERSIONS[kind][0], "kind": kind, "metadata": metadata}

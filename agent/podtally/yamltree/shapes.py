# SPDX-License-Identifier: Apache-2.0
"""Explains in plain words how a value differs from its type.

msgspec's messages change between versions, and are for Python programmers. They are parsed
here, once; unrecognised ones are passed on.
"""

import re

import msgspec

from podtally.errors import PodtallyError

Steps = tuple[str | int, ...]  # ("endpoints", 0, "name")

_STEP = re.compile(r"\.([^.\[]+)|\[([0-9]+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(.*?)`, got `(.*?)`")
_WORDS = {
    "object": "an object",
    "array": "a list",
    "str": "text (in quotes, if it looks like something else)",
    "int": "a whole number",
    "bool": "true or false",
    "float": "a number",
    "null": "null",
}
_MAX_WORDS = 200  # characters


def explain_mismatch(error: msgspec.ValidationError) -> tuple[Steps, str]:
    """Return where the value differs, and what it must be."""
    words, at = _parted(error)
    expected = _EXPECTED.fullmatch(words)
    if expected:
        wanted = [_WORDS.get(w, w) for w in expected.group(1).split(" | ") if w != "null"]
        got = _WORDS.get(expected.group(2), expected.group(2)).partition(" (")[0]
        words = f"must be {' or '.join(wanted)}, not {got}"
    return _steps(at), words[:_MAX_WORDS]


def unknown_field(error: msgspec.ValidationError) -> tuple[Steps, str] | None:
    """Return the object and the field that its type does not have, if that is the error."""
    words, at = _parted(error)
    unknown = _UNKNOWN.fullmatch(words)
    return (_steps(at), unknown.group(1)) if unknown else None


def field_of(steps: Steps) -> str:
    """Return ``endpoints[0].name``."""
    words = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return "".join(words).removeprefix(".")


def shape_error(error: msgspec.ValidationError, where: str, fix: str) -> PodtallyError:
    """Return the error for a value of the wrong shape; ``where`` is a file or flag."""
    unknown = unknown_field(error)
    if unknown:
        steps, words = (*unknown[0], ""), f'unknown field "{unknown[1][:_MAX_WORDS]}"'
    else:
        steps, words = explain_mismatch(error)
    field = field_of(tuple(step for step in steps if step != ""))
    return PodtallyError(": ".join(filter(None, (where, field, words))), fix)


def _parted(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split "Expected `int`, got `str` - at `$.spec.x[0].port`" into message and path."""
    text = str(error)
    words, separator, at = text.rpartition(" - at `")
    if not separator:
        return text, ""
    return words, at.removesuffix("`").removeprefix("$")


def _steps(path: str) -> Steps:
    """Return the steps of ``.spec.ingress[0].ports``, up to a map's key, which msgspec omits."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(path):
        if index == "...":
            break
        steps.append(int(index) if index else name)
    return tuple(steps)

# SPDX-License-Identifier: Apache-2.0
"""Converts plain scalars of YAML and JSON: numbers, booleans, null, or text.

Follows the Kubernetes tools (sigs.k8s.io/yaml: YAML 1.1 as Go reads it, then JSON), not
PyYAML: time stamps and 1:30 are text, 010 is eight, a whole float is an integer. The one
exception is ``AMBIGUOUS``.
"""

import math
import re
from typing import Any

MAX_NUMERAL = 64  # digits; the time to convert grows with their square

_INTEGER = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# Text in PyYAML and YAML 1.2, booleans in kubectl: read as text, with a warning.
AMBIGUOUS = frozenset({"y", "Y", "n", "N"})
_TRUE = frozenset({"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_TAG = "tag:yaml.org,2002:"
_WANTED = {"str": str, "int": int, "float": int | float, "bool": bool, "null": type(None)}


class ScalarError(Exception):
    """The text has no JSON equivalent."""


def tagged(text: str, tag: str) -> Any:
    """Convert a scalar by its tag; ScalarError."""
    wanted = _WANTED.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
    if wanted is None:
        raise ScalarError(f"unknown tag {brief(tag)}; drop it")
    value = text if wanted is str else resolved(text)
    if not isinstance(value, wanted):
        raise ScalarError(f"{brief(text)} is not of its tag {tag.removeprefix(_TAG)}")
    return value


def resolved(text: str) -> Any:
    """Convert an unquoted scalar; ScalarError."""
    if text in _NULLS:
        return None
    if text[0] not in "+-.0123456789":
        return True if text in _TRUE else (False if text in _FALSE else text)
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"{text} is not a JSON number")
    if _INTEGER.fullmatch(text):
        return integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return real(text.replace("_", ""))
    return text


def integer(text: str) -> int | float:
    """Convert as Go's ``strconv.ParseInt`` with base 0: a leading 0 is octal."""
    digits = text.lstrip("+-")
    if len(digits) > MAX_NUMERAL:
        raise ScalarError(f"a number of {len(digits)} digits")
    sign = -1 if text[0] == "-" else 1
    prefix = digits[:2].lower()
    if prefix in ("0x", "0o", "0b"):
        return sign * int(digits[2:] or "0", {"0x": 16, "0o": 8, "0b": 2}[prefix])
    if len(digits) > 1 and digits[0] == "0" and set(digits) <= set("01234567"):
        return sign * int(digits, 8)
    return sign * int(digits)


def real(text: str) -> int | float:
    """Convert a float; a whole one is an integer, as after Go's round trip through JSON."""
    if len(text) > MAX_NUMERAL:
        raise ScalarError(f"a number of {len(text)} digits")
    value = float(text)
    if not math.isfinite(value):
        raise ScalarError(f"{brief(text)} is too large for a number")
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def brief(text: str, longest: int = 60) -> str:
    """Return the text in quotes, on one line and not too long, for an error."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + "'"

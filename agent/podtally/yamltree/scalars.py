# SPDX-License-Identifier: Apache-2.0
"""What plain text means in YAML and JSON: numbers, truth values, nothing, or just text.

As the Kubernetes tools have it (sigs.k8s.io/yaml: YAML 1.1 as Go reads it, then JSON), not as
PyYAML resolves it: time stamps and 1:30 are text, 010 is eight, a whole float is an integer.
One thing is not: see ``DOUBTFUL``.
"""

import math
import re
from typing import Any

MAX_NUMERAL = 64  # digits; converting a long one takes time that grows with its square

_INTEGER = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# Text to PyYAML and to YAML 1.2, truth values to kubectl: taken as text, and warned of.
AMBIGUOUS = frozenset({"y", "Y", "n", "N"})
_TRUE = frozenset({"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_TAG = "tag:yaml.org,2002:"
_WANTED = {"str": str, "int": int, "float": int | float, "bool": bool, "null": type(None)}


class ScalarError(Exception):
    """The text means nothing that JSON could hold."""


def tagged(text: str, tag: str) -> Any:
    """By its tag; ScalarError."""
    wanted = _WANTED.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
    if wanted is None:
        raise ScalarError(f"the tag {brief(tag)} is not understood; drop it")
    value = text if wanted is str else resolved(text)
    if not isinstance(value, wanted):
        raise ScalarError(f"{brief(text)} is no {tag.removeprefix(_TAG)}, as its tag says")
    return value


def resolved(text: str) -> Any:
    """By its looks, where it stands without quotes; ScalarError."""
    if text in _NULLS:
        return None
    if text[0] not in "+-.0123456789":
        return True if text in _TRUE else (False if text in _FALSE else text)
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"{text} is no number in JSON")
    if _INTEGER.fullmatch(text):
        return integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return real(text.replace("_", ""))
    return text


def integer(text: str) -> int | float:
    """As Go's ``strconv.ParseInt`` with base 0: a leading 0 is octal."""
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
    """A whole one as an integer, as it is when Go writes it out as JSON and reads it again."""
    if len(text) > MAX_NUMERAL:
        raise ScalarError(f"a number of {len(text)} digits")
    value = float(text)
    if not math.isfinite(value):
        raise ScalarError(f"{brief(text)} is too big for a number")
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def brief(text: str, longest: int = 60) -> str:
    """In quotes, on one line, cut where it is long: an error must not carry a megabyte."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut) + "'"

# SPDX-License-Identifier: Apache-2.0
"""Problems of policy objects: a fault at a field, a problem at a file, line and field."""

import re
from typing import NamedTuple

from podtally.yamltree.scalars import brief

# Error: the API server would reject it. Warning: accepted, but probably a mistake.
ERROR, WARNING = "error", "warning"

Path = tuple[str | int, ...]  # ("spec", "ingress", 0): a field of an object
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", re.ASCII)


class Fault(NamedTuple):
    """A problem with a field of one object."""

    path: Path
    message: str
    severity: str = ERROR
    lost: bool = True  # the object's meaning is lost; otherwise it is judged as it is


class Problem(NamedTuple):
    source: str  # the file, or another origin of the text
    line: int  # 0: unknown
    subject: str  # "NetworkPolicy shop/allow"; "" if unknown
    field: str  # "spec.ingress[0].from[1]"; "": the whole object
    message: str  # what is wrong, and the fix
    severity: str = ERROR

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return ": ".join(filter(None, (where, self.subject, self.field, self.message)))


def warning(path: Path, message: str) -> Fault:
    return Fault(path, message, WARNING, lost=False)


def field_of(path: Path) -> str:
    """Format a path as the API server does; keys with special characters are in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{brief(step)}]"
    return text

# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a document, with file, line and field; and what is wrong with an object."""

import re
from typing import NamedTuple

from podtally.yamltree.scalars import brief

# An error: the API server would refuse it. A warning: it takes it, though it should not stand so.
ERROR, WARNING = "error", "warning"

Path = tuple[str | int, ...]  # ("spec", "ingress", 0): of a field within an object
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", re.ASCII)


class Fault(NamedTuple):
    """What is wrong with a field."""

    path: Path
    message: str
    severity: str = ERROR
    lost: bool = True  # nobody can tell what the object means; else it is judged all the same


class Problem(NamedTuple):
    source: str  # the file, or what else the text came from
    line: int  # 0: cannot be told
    subject: str  # "NetworkPolicy shop/allow"; "" where it is not known what it is
    field: str  # "spec.ingress[0].from[1]"; "" where it is about the whole
    message: str  # what is wrong, and the fix
    severity: str = ERROR

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return ": ".join(filter(None, (where, self.subject, self.field, self.message)))


def warning(path: Path, message: str) -> Fault:
    return Fault(path, message, WARNING, lost=False)


def field_of(path: Path) -> str:
    """As the API server writes fields; a key that is no plain word stands in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{brief(step)}]"
    return text

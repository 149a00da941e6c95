# SPDX-License-Identifier: Apache-2.0
"""What the declaration of a setting consists of."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

from podtally.config.kinds import SettingKind, duration_text
from podtally.config.structs import History, Prices

T = TypeVar("T")


class Setting(NamedTuple):
    """The declaration of one setting; ``name`` is its key in the file."""

    name: str
    default: Any
    kind: SettingKind
    group: str
    help: str  # for --help
    text: str  # for the documentation: meaning, and cost
    flag: str  # "": only in the file
    restart: bool  # not changed by a reload


def setting(
    default: T,
    kind: SettingKind,
    group: str,
    help: str,
    text: str = "",
    *,
    flag: bool | str = True,
    restart: bool = False,
) -> T:
    """Return a dataclass field; ``text`` defaults to ``help``."""
    declared = {
        "kind": kind,
        "group": group,
        "help": help,
        "text": text or help,
        "flag": flag,
        "restart": restart,
    }
    made: Any = dataclasses.field(default=default, metadata=declared)
    if isinstance(default, dict):
        made = dataclasses.field(default_factory=dict, metadata=declared)
    return made  # type: ignore[no-any-return]


def default_text(declared: Setting) -> str:
    """Return a default as people write it; "none" if there is none."""
    value = declared.default
    if value in (None, (), {}, Prices()):
        return "none"
    if isinstance(value, bool | History):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if declared.kind.metavar == "SIZE":
        return f"{value >> 20}MiB"
    if declared.kind.metavar == "DURATION":
        return duration_text(value)
    return str(value)

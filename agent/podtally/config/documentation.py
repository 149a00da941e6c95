# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/configuration.md from the declarations."""

import re

from podtally.config.setting import default_text
from podtally.config.settings import SETTINGS

_HEAD = "| key | flag | default | type | meaning, and cost |\n|---|---|---|---|---|\n"
_MARKED = re.compile(r"(<!-- settings: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(group: str) -> str:
    """Return the table of a group's settings, in Markdown; "" if there are none."""
    rows = []
    for each in SETTINGS.values():
        if each.group == group:
            default = default_text(each)
            cells = (
                f"`{each.name}`",
                f"`{each.flag}`" if each.flag else "",
                default if default == "none" else f"`{default}`",
                each.kind.words,
                each.text,
            )
            rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows) if rows else ""


def updated(page: str) -> str:
    """Return the page with its marked tables as the declarations have them."""
    return _MARKED.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", page)

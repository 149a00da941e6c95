# SPDX-License-Identifier: Apache-2.0
"""Shortens a name to its registrable domain: one label more than a public suffix.

The list is the file of the package publicsuffixlist. The package's own table takes 3 MB of
memory, the text that is searched here 0.2 MB; names are shortened once each.
"""

from importlib.resources import files
from pathlib import Path

from podtally.errors import PodtallyError

_MAX_LABELS = 8  # of a suffix; the longest rule has five


def list_file() -> Path:
    """Return the path of the list that is installed; PodtallyError without the package."""
    try:
        return Path(str(files("publicsuffixlist") / "public_suffix_list.dat"))
    except ModuleNotFoundError:
        raise PodtallyError(
            "the public suffix list is not installed",
            "install the package publicsuffixlist, or set domains: full",
        ) from None


class PublicSuffixes:
    """The rules of https://publicsuffix.org/list/, with the private section."""

    def __init__(self, path: Path) -> None:
        """Read the list; PodtallyError if it cannot be used."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise PodtallyError(
                f"cannot read the public suffix list {path}: {error}",
                "install the package publicsuffixlist again, or set domains: full",
            ) from None
        rules = [_ascii(line.split()[0]) for line in text.splitlines() if _is_rule(line)]
        if "com" not in rules:
            raise PodtallyError(
                f"the public suffix list {path} has no rules",
                "install the package publicsuffixlist again, or set domains: full",
            )
        self._rules = "\n".join(["", *rules, ""])

    def registrable(self, name: str) -> str:
        """Return the registrable domain of a name; the name itself if it has none."""
        labels = name.split(".")
        for start in range(max(0, len(labels) - _MAX_LABELS), len(labels)):
            suffix = labels[start:]
            if self._has("!" + ".".join(suffix)):
                return ".".join(suffix)  # an exception's suffix is one label shorter
            wildcard = ".".join(["*", *suffix[1:]])
            if self._has(".".join(suffix)) or (len(suffix) > 1 and self._has(wildcard)):
                return ".".join(labels[max(0, start - 1) :])
        return ".".join(labels[-2:])  # the prevailing rule is *

    def _has(self, rule: str) -> bool:
        return f"\n{rule}\n" in self._rules


def _is_rule(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("//")


def _ascii(rule: str) -> str:
    if rule.isascii():
        return rule.lower()
    return ".".join(
        part if part.isascii() else part.encode("idna").decode() for part in rule.split(".")
    ).lower()

# SPDX-License-Identifier: Apache-2.0
"""Commands in the documentation exist, with their options."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podtally import cli
from podtally.plugin import cli as plugin

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(
    r"^(?:\$ |- |sudo |/opt/podtally/bin/|\.venv/bin/)*((?:kubectl )?podtally .+)$"
)
_SYNTAX = re.compile(r"[\[\]…|<>]|\.\.\.")  # of a usage, not of a command


def commands(page: Path) -> Iterator[str]:
    """Yield commands without comments, pipes and redirections."""
    text = page.read_text()
    blocks = [block for language, block in _FENCED.findall(text) if language in ("", "sh")]
    for block in (*blocks, *_INLINE.findall(_FENCED.sub("", text))):
        for line in block.splitlines():
            text = re.split(r"\s+#\s|\s[|>&]+\s|;\s|\s&&\s", line.strip())[0]
            found = _COMMAND.match(text)
            if found and not _SYNTAX.search(found[1]):
                yield found[1]


COMMANDS = sorted({(page.name, each) for page in PAGES for each in commands(page)})


def test_there_are_many() -> None:
    assert len(COMMANDS) > 60
    assert {name for name, _ in COMMANDS} >= {"README.md", "operations.md", "history.md", "dns.md"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_it_is_one(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    del page
    words = shlex.split(command)
    of_plugin = words[0] == "kubectl"
    arguments = words[2:] if of_plugin else words[1:]
    build = plugin.build_parser if of_plugin else cli.build_parser
    if arguments == ["--help"]:
        return
    failed = _exit_code(lambda: build((arguments[0],)).parse_args(arguments))
    # A mention of a command alone lacks what it needs; it must be one, all the same.
    said = capsys.readouterr().err
    assert not failed or re.search("arguments are required|expected one argument", said), said


def _exit_code(parse: Callable[[], object]) -> int:
    try:
        parse()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0

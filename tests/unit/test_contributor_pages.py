# SPDX-License-Identifier: Apache-2.0
"""The pages for contributors name modules, packages and files that exist, and every package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "agent" / "podtally"
PAGES = ("docs/architecture.md", "docs/internals.md", "CONTRIBUTING.md")
PATH = re.compile(r"[a-z_.][\w.-]*(/[\w.*-]+)*/?")


def paths(text: str) -> list[str]:
    """Return what stands in backticks and looks like a path: it has a slash inside or at its end."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`([^`\n]+)`", prose)
    return [each for each in found if "/" in each and PATH.fullmatch(each)]


def exists(path: str) -> bool:
    """Look in the checkout, and among the agent's packages and modules, where ``.py`` is left out."""
    return any(
        any(root.glob(pattern))
        for root in (ROOT, AGENT)
        for pattern in (path.rstrip("/"), f"{path}.py")
        if not path.endswith("/") or (root / path).is_dir() or "*" in path
    )


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    named = paths((ROOT / page).read_text())
    assert len(named) > 10
    assert [path for path in named if not exists(path)] == []


def test_a_path_that_does_not_exist_is_found() -> None:
    assert [
        exists(each) for each in ("ledger/ledger", "kernel/", "ledger/no_such", "nothing/")
    ] == [
        True,
        True,
        False,
        False,
    ]
    assert paths("`ledger/costs` and `/metrics`, `a b/c`, `kernel/`") == ["ledger/costs", "kernel/"]


def test_every_package_has_its_line() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## Packages")[2]
    named = re.findall(r"`([a-z]+)/?`", table.partition("\n## ")[0])
    packages = {each.parent.name for each in AGENT.glob("*/__init__.py")}
    assert packages - set(named) == set()

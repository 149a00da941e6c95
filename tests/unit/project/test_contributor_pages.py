# SPDX-License-Identifier: Apache-2.0
"""The pages for contributors name modules, packages and files that exist, and every package."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
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
    assert paths("`ledger/metrics/costs` and `/metrics`, `a b/c`, `kernel/`") == [
        "ledger/metrics/costs",
        "kernel/",
    ]


def table_of(heading: str) -> list[str]:
    """Return the packages that the first column of a section's table names, in order."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition(f"## {heading}\n")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", section.partition("\n## ")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(?:ledger/)?([a-z]+)/?`", row)]


def downward_imports(order: list[str], folder: Path, prefix: str) -> list[str]:
    """Return imports in a folder that point down the order of its packages, or to none of them."""
    return [
        f"{path.relative_to(AGENT)}: {used}"
        for path in folder.glob("**/*.py")
        if (own := path.relative_to(folder).parts[0].removesuffix(".py")) in order
        for used in re.findall(
            rf"^\s*(?:from|import) {prefix}\.(\w+)", path.read_text(), re.MULTILINE
        )
        if used not in order or order.index(used) > order.index(own)
    ]


def test_every_package_has_its_line() -> None:
    packages = {each.parent.name for each in AGENT.glob("*/__init__.py")}
    assert packages - set(table_of("Packages")) == set()


def test_imports_point_up_the_table_of_packages() -> None:
    assert downward_imports(table_of("Packages"), AGENT, "podtally") == []


def test_imports_within_the_ledger_point_up_its_table() -> None:
    order = table_of("The ledger")
    assert set(order) == {each.parent.name for each in (AGENT / "ledger").glob("*/__init__.py")}
    assert downward_imports(order, AGENT / "ledger", r"podtally\.ledger") == []


def test_class_names_are_unique() -> None:
    names = Counter(
        name
        for path in AGENT.glob("**/*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)
    )
    assert [name for name, times in names.items() if times > 1] == []

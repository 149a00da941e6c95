# SPDX-License-Identifier: Apache-2.0
"""Mutation testing: change one token of a module, run the tests that import it, and report the
changes that no test notices.
"""

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
AGENT = Path("agent/podtally")
TEST_SECONDS = 300
_COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
_OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.BitOr: "&", ast.BitAnd: "|"}


class Mutation(NamedTuple):
    path: Path  # in the checkout
    line: int
    start: int  # in bytes, of the file
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def shown(self, source: bytes) -> str:
        old = source[self.start : self.end].decode().strip()
        return f"{self.path}:{self.line}: {old} -> {self.text.strip()}"


def mutations(path: Path, source: bytes) -> Iterator[Mutation]:
    """Yield all changes of one token that ``source`` offers; ValueError if it does not parse."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return starts[line - 1] + column

    def between(left: ast.expr, right: ast.expr, text: str) -> Mutation:
        start = at(left.end_lineno, left.end_col_offset)
        return Mutation(path, left.lineno, start, at(right.lineno, right.col_offset), text)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            text = _COMPARISONS[type(node.ops[0])]
            yield between(node.left, node.comparators[0], f" {text} ")
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            yield between(node.left, node.right, f" {_OPERATORS[type(node.op)]} ")
        elif isinstance(node, ast.BoolOp):
            text = " or " if isinstance(node.op, ast.And) else " and "
            yield between(node.values[0], node.values[1], text)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start = at(node.lineno, node.col_offset)
            yield Mutation(path, node.lineno, start, start + len("not"), "bool")
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            text = str(not node.value) if isinstance(node.value, bool) else str(node.value + 1)
            start = at(node.lineno, node.col_offset)
            yield Mutation(path, node.lineno, start, at(node.end_lineno, node.end_col_offset), text)


def nearest_tests(path: Path, root: Path) -> list[str]:
    """Return the unit tests that import a module, directly."""
    dotted = ".".join(path.relative_to("agent").with_suffix("").parts)
    package, _, name = dotted.rpartition(".")
    spellings = (f"from {dotted} import", f"import {dotted}")
    found = []
    for test in sorted((root / "tests/unit").glob("*/test_*.py")):
        text = test.read_text()
        imports = [line for line in text.splitlines() if line.startswith(f"from {package} import")]
        if any(each in text for each in spellings) or any(name in line for line in imports):
            found.append(str(test.relative_to(root)))
    return found


def _pass(tests: list[str], copy: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, capture_output=True, timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False  # an endless loop is noticed
    return done.returncode == 0


def _survives(mutation: Mutation, tests: list[str], copy: Path) -> bool:
    target = copy / mutation.path
    source = target.read_bytes()
    target.write_bytes(mutation.applied(source))
    try:
        return _pass(tests, copy)
    finally:
        target.write_bytes(source)


def _copied(folder: Path) -> Path:
    """A copy of what git knows, as it is now."""
    copy = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("target", help="a package or module below agent/podtally")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="mutations (20)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (1)")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="default: those that import it")
    args = parser.parse_args()
    target = AGENT / args.target
    paths = [target] if target.suffix == ".py" else sorted((ROOT / target).rglob("*.py"))
    paths = [path.relative_to(ROOT) if path.is_absolute() else path for path in paths]
    if not paths or not all((ROOT / path).is_file() for path in paths):
        parser.error(f"there is no {target}")
    sources = {path: (ROOT / path).read_bytes() for path in paths}
    offered = [each for path in paths for each in mutations(path, sources[path])]
    chosen = random.Random(args.seed).sample(offered, min(args.count, len(offered)))
    survivors, passed = 0, set[tuple[str, ...]]()
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        for number, each in enumerate(sorted(chosen), 1):
            tests = args.tests or nearest_tests(each.path, copy)
            if tests and tuple(tests) not in passed and not _pass(tests, copy):
                print(f"error: {' '.join(tests)} fail without a mutation", file=sys.stderr)
                return 2
            passed.add(tuple(tests))
            survived = not tests or _survives(each, tests, copy)
            verdict = "SURVIVED" if survived else "killed"
            why = "" if tests else " (no unit test imports it)"
            print(f"{number:3}/{len(chosen)} {verdict:8} {each.shown(sources[each.path])}{why}")
            survivors += survived
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

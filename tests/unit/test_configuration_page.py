"""docs/configuration.md and the code have the same settings, flags, defaults and bounds, and its examples are right."""

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import pytest

import podtally
from podtally import config
from podtally.cli import main
from podtally.commands import run
from podtally.config import Config, Prices, StaticEndpoint
from podtally.daemon import ONLY_BY_RESTART
from tests.unit import metrics_page
from tests.unit.metrics_page import rows, sections

PATH = Path(__file__).parents[2] / "docs" / "configuration.md"
PAGE = PATH.read_text()
SOURCES = Path(podtally.__file__).parent
ENDPOINTS = "endpoints"  # the section whose keys are those of an entry
NOT_SETTINGS = {"config", "verbose", "help"}
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OF_EVERY_PROGRAM = {"TERM", "HOME"}


class Setting(NamedTuple):
    """A row, as it is written; texts are without backticks."""

    key: str
    flag: str
    default: str
    kind: str
    text: str


def settings(page: str = PAGE) -> dict[str, Setting]:
    found = [
        Setting(*(cell.replace("`", "") for cell in cells))
        for section, body in sections(page)
        if section != ENDPOINTS
        for cells in rows(body, "key")
    ]
    assert len({each.key for each in found}) == len(found)
    return {each.key: each for each in found}


def defaults() -> dict[str, str]:
    given = Config()
    return {field.name: written(getattr(given, field.name)) for field in dataclasses.fields(Config)}


def written(value: object) -> str:
    """A default, as the page has it."""
    if value in (None, (), {}, Prices()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def flags() -> dict[str, str]:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return {
        action.dest: " ".join(action.option_strings)
        for action in parser._actions
        if action.dest not in NOT_SETTINGS
    }


def test_the_page_has_the_settings_and_their_defaults() -> None:
    assert {each.key: each.default for each in settings().values()} == defaults()


def test_the_page_has_the_flags() -> None:
    assert {each.key: each.flag for each in settings().values() if each.flag} == flags()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("| `epoch` | `--epoch` | `1` |", "| `epoch` | `--epoch` | `2` |"),
        ("| `epoch` | `--epoch` |", "| `epochs` | `--epoch` |"),
        ("`--candidate` |", "`--candidates` |"),
        ("| `flow_log` | `--flow-log` |", "| `flow_log` | |"),
    ],
)
def test_a_page_that_says_otherwise_is_found(old: str, new: str) -> None:
    assert PAGE.count(old) == 1
    said = settings(PAGE.replace(old, new))
    assert ({each.key: each.default for each in said.values()}, flagged(said)) != (
        defaults(),
        flags(),
    )


def flagged(said: dict[str, Setting]) -> dict[str, str]:
    return {each.key: each.flag for each in said.values() if each.flag}


def bounds(kind: msgspec.inspect.Type) -> list[str]:
    """What a type lets through, in the page's words."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return [each for part in kind.types for each in bounds(part)]
    if isinstance(kind, msgspec.inspect.LiteralType):
        return [str(each) for each in kind.values]
    if isinstance(kind, msgspec.inspect.BoolType):
        return ["true", "false"]
    if isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        limits = (("above", kind.gt), ("at least", kind.ge), ("at most", kind.le))
        return [f"{word} {limit}" for word, limit in limits if limit is not None]
    return []


def test_the_page_has_the_types_and_bounds() -> None:
    file = msgspec.inspect.type_info(config._File)
    assert isinstance(file, msgspec.inspect.StructType)
    said, found = settings(), 0
    for field in file.fields:
        for words in bounds(field.type):
            found += 1
            kind = said[field.name].kind
            assert re.search(rf"(^|, ){words}(,|$)", kind), f"{field.name}: {words}: {kind}"
    assert found > 20  # the types are still such that they are read above


def test_the_page_has_what_a_reload_does_not_take_over() -> None:
    (sentence,) = re.findall(r"Only a\s+restart takes over ([^;]*);", PAGE)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(ONLY_BY_RESTART)


def test_every_setting_is_explained() -> None:
    for setting in settings().values():
        assert setting.kind, setting.key
        assert setting.text, setting.key


def test_an_endpoint_has_what_the_page_says() -> None:
    said = {
        key.strip("`"): default.strip("`")
        for section, body in sections(PAGE)
        if section == ENDPOINTS
        for key, default, _ in rows(body, "key")
    }
    fields = msgspec.structs.fields(StaticEndpoint)
    assert said == {field.name: "" if field.required else given(field) for field in fields}


def given(field: msgspec.structs.FieldInfo) -> str:
    """The default; what is made anew for each (a dict) is empty, as what is no default."""
    return written(None if field.default in (msgspec.NODEFAULT, "") else field.default)


def test_prices_are_by_scopes_that_metrics_have() -> None:
    (row,) = re.findall(r"^\| `scope` .*$", metrics_page.page(), re.MULTILINE)
    assert set(get_args(config.Scope)) == set(re.findall(r"`(\w+)`", row)) - {"scope"}
    price = msgspec.inspect.type_info(config.Price)
    assert isinstance(price, msgspec.inspect.FloatType)
    assert f"in steps of {config.PRICE_STEP:.4f} up to {price.le}" in PAGE


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[0])
def test_an_example_is_one_that_an_agent_would_take(example: str, tmp_path: Path) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text(example)
    assert main(["config", "check", str(file)]) == 0


def test_variables_of_the_environment_are_those_of_the_code() -> None:
    said = {
        name
        for section, body in sections(PAGE)
        if section == "Environment"
        for cells in rows(body, "variable")
        for name in re.findall(r"`(\w+)`", cells[0])
    }
    read = {
        name for path in SOURCES.rglob("*.py") for name in variables(ast.parse(path.read_text()))
    }
    assert said == read - OF_EVERY_PROGRAM


def variables(module: ast.Module) -> Iterator[str]:
    """What is asked of an environment by its name, or by a constant that is called a variable."""
    for node in ast.walk(module):
        match node:
            case ast.Call(
                func=ast.Attribute(value=asked, attr="get" | "pop"),
                args=[ast.Constant(value=str(name)), *_],
            ) if ast.unparse(asked).endswith(("environ", "environment")):
                yield name
            case ast.Assign(
                targets=[ast.Name(id=constant)], value=ast.Constant(value=str(name))
            ) if constant.endswith("VARIABLE"):
                yield name

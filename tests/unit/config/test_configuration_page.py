# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md and the code have the same settings, flags, defaults and bounds, and its examples are right."""

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import podtally
from podtally import config
from podtally.cli import main
from podtally.commands import run
from podtally.config import Config, History, StaticEndpoint, documentation
from podtally.config.settings import GROUPS, RESTART_ONLY, SETTINGS
from tests.unit import metrics_page
from tests.unit.metrics_page import rows, sections

PATH = Path(__file__).parents[3] / "docs" / "configuration.md"
PAGE = PATH.read_text()
SOURCES = Path(podtally.__file__).parent
ENDPOINTS = "endpoints"  # the section with the keys of an entry
NOT_SETTINGS = {"config", "verbose", "help"}
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OF_EVERY_PROGRAM = {"TERM", "HOME"}


def test_the_page_has_the_settings_as_they_are_declared() -> None:
    """Keys, flags, defaults, types and bounds; scripts/generate-docs writes them."""
    assert documentation.updated(PAGE) == PAGE


def test_the_page_has_every_setting_once() -> None:
    said = [cells[0].strip("`") for _, body in sections(PAGE) for cells in rows(body, "key")]
    entries = [
        field.name for each in (StaticEndpoint, History) for field in msgspec.structs.fields(each)
    ]
    assert sorted(said) == sorted([*SETTINGS, *entries])
    assert {group for group, _ in sections(PAGE)} >= set(GROUPS)


def test_the_file_and_the_flags_have_every_setting() -> None:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    flags = {
        action.dest: action.option_strings
        for action in parser._actions
        if action.dest not in NOT_SETTINGS
    }
    assert flags == {name: [each.flag] for name, each in SETTINGS.items() if each.flag}
    assert {field.name for field in dataclasses.fields(Config)} == set(SETTINGS)


def written(value: object) -> str:
    """A default, as the page has it."""
    return "none" if value in (None, {}) else str(value)


def test_the_page_has_what_a_reload_does_not_take_over() -> None:
    (sentence,) = re.findall(r"Only a\s+restart applies ([^;]*);", PAGE)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(RESTART_ONLY)


def test_every_setting_is_explained() -> None:
    for setting in SETTINGS.values():
        assert setting.kind.words, setting.name
        assert setting.help, setting.name
        assert setting.text, setting.name


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
    """The default; what is created for each (a dict) is empty, as what is no default."""
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

# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration: defaults, then the file, then the command line."""

import argparse
import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from podtally.config.kinds import STANDARD_OUTPUT, SettingError, Steps
from podtally.config.setting import Setting, default_text
from podtally.config.settings import DEFAULT_FILE, SETTINGS, Config
from podtally.errors import PodtallyError
from podtally.yamltree.shapes import field_of
from podtally.yamltree.suggestion import did_you_mean
from podtally.yamltree.tree import TreeError, TreeNode, yaml_document

__all__ = ["DEFAULT_FILE", "add_flags", "from_arguments", "load"]

_SEE = "see docs/configuration.md"


def load(path: Path | None, flags: Mapping[str, Any]) -> Config:
    """Return the configuration; ``flags`` by setting, None if not given; PodtallyError.

    Without ``path`` the default file is read, if it exists.
    """
    values: dict[str, Any] = {}
    if path is not None or DEFAULT_FILE.exists():
        values |= _from_file(path or DEFAULT_FILE)
    values |= _from_flags(flags)
    config = Config(**values)
    _check_logs(config.flow_log, config.events)
    return config


def from_arguments(args: argparse.Namespace) -> Config:
    """Return the configuration of a command's arguments; PodtallyError."""
    return load(args.config, {name: vars(args)[name] for name in SETTINGS if name in vars(args)})


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add the flags of settings, in the groups of the documentation."""
    groups: dict[str, Any] = {}
    for setting in (SETTINGS[name] for name in names):
        group = groups.get(setting.group)
        if group is None:
            group = groups[setting.group] = parser.add_argument_group(setting.group.lower())
        kind = setting.kind
        if kind.switch:
            group.add_argument(
                setting.flag,
                dest=setting.name,
                action="store_true",
                default=None,
                help=setting.help,
            )
            continue
        group.add_argument(
            setting.flag,
            dest=setting.name,
            action="append" if kind.repeats else "store",
            metavar=kind.metavar,
            help=_help(setting),
        )


def _help(setting: Setting) -> str:
    default = default_text(setting)
    stated = default == "none" or "default" in setting.help
    if not stated and setting.help.endswith(")"):
        return f"{setting.help[:-1]}; default: {default})".replace("%", "%%")
    return (setting.help if stated else f"{setting.help} (default: {default})").replace("%", "%%")


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in flags.items():
        if value is None:
            continue
        try:
            values[name] = SETTINGS[name].kind.read(value)
        except SettingError as problem:
            words = f"{SETTINGS[name].flag}: {problem.message}"
            raise PodtallyError(words, problem.fix or "see --help") from None
    return values


def _from_file(path: Path) -> dict[str, Any]:
    root = _tree(path)
    if root is None or root.value is None:
        return {}
    if not isinstance(root.value, dict):
        raise PodtallyError(
            f"{path}:{root.line}: must be a mapping of settings", "use for example `epoch: 1s`"
        )
    values = {}
    for key, value in root.value.items():
        setting = SETTINGS.get(key)
        if setting is None:
            message = f"unknown setting {key!r}"
            raise _wrong(path, root, (key,), message, did_you_mean(str(key), SETTINGS))
        if value is None:
            continue  # `key:` without a value keeps the default
        try:
            values[key] = setting.kind.read(value)
        except SettingError as problem:
            steps = (key, *problem.steps)
            words = f"{field_of(steps)}: {problem.message}"
            raise _wrong(path, root, steps, words, problem.fix or _SEE) from None
    return values


def _wrong(path: Path, root: TreeNode, steps: Steps, message: str, fix: str) -> PodtallyError:
    return PodtallyError(f"{path}:{root.line_at(steps)}: {message}", fix)


def _tree(path: Path) -> TreeNode | None:
    try:
        text = path.read_text()
    except OSError as error:
        raise PodtallyError(
            f"cannot read the configuration {path}: {error.strerror}", "check --config"
        ) from None
    except UnicodeDecodeError as error:
        raise PodtallyError(f"{path}: not YAML: {error}", "check --config") from None
    try:
        return yaml_document(text)
    except TreeError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise PodtallyError(f"{where}: {error.message}", "fix that line") from None


def _check_logs(flow_log: Path | None, events: str | None) -> None:
    """Refuse one file for both logs, and a log that the other one is rotated to."""
    if flow_log is None or events is None:
        return
    if _same_file(flow_log, Path(events)):
        raise PodtallyError(f"flow_log and events are both {events}", "use two files")
    if STANDARD_OUTPUT in (str(flow_log), events):
        return
    for one, other in ((flow_log, Path(events)), (Path(events), flow_log)):
        rotated = Path(f"{one}.1")
        if _same_file(rotated, other):
            raise PodtallyError(f"{other} is the rotated file of {one}", "use two files")


def _same_file(one: Path, other: Path) -> bool:
    """Return whether both are, or would be, the same file."""
    if STANDARD_OUTPUT in (str(one), str(other)):
        return one == other
    with contextlib.suppress(OSError):
        if one.samefile(other):
            return True
    return os.path.realpath(one) == os.path.realpath(other)

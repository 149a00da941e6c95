# SPDX-License-Identifier: Apache-2.0
"""Kinds of settings: how a value from the file or a flag is parsed.

A value is a YAML value, or the text of a flag. Each kind accepts text as people write it
(``1m30s``, ``64MiB``, ``a,b``), so flags and the file accept the same.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from podtally.config.policy_name import PolicyName, parse_name

Steps = tuple[str | int, ...]

STANDARD_OUTPUT = "-"  # instead of the path of a log
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DOMAIN = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9-]{1,63}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]i?)?B?")
_FACTORS = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_FACTORS |= {f"{unit}i": 1024**power for power, unit in enumerate(("K", "M", "G", "T"), 1)}
_NAMES = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
_NAMES |= {dict: "a mapping", type(None): "nothing"}


class SettingError(Exception):
    """An invalid value; ``steps`` lead to the invalid part."""

    def __init__(self, message: str, fix: str = "", steps: Steps = ()) -> None:
        super().__init__(message)
        self.message, self.fix, self.steps = message, fix, steps


class SettingKind(NamedTuple):
    """``words`` for documentation, ``metavar`` for --help; ``read`` raises SettingError."""

    words: str
    read: Callable[[Any], Any]
    metavar: str
    repeats: bool = False  # the flag may be repeated
    switch: bool = False  # the flag has no value


def refused(value: object, wanted: str) -> SettingError:
    """Return the error for a value of another type, or for text that cannot be parsed."""
    if isinstance(value, str):
        return SettingError(f"{value!r} is not {wanted}")
    return SettingError(f"must be {wanted}, not {_NAMES.get(type(value), 'this')}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(
            f"must be text, not {_NAMES.get(type(value), 'this')}", "put it in quotes"
        )
    if not value:
        raise SettingError("is empty", "remove it, or give it a value")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _address(value: Any) -> str:
    text = _text(value)
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or not port.isascii() or int(port) > 65535:
        raise SettingError(f"{text!r} is not ADDR:PORT", "use for example 127.0.0.1:9775")
    del host
    return text


def duration_text(seconds_: float) -> str:
    """Return a duration as people write it: ``30s``, ``1h``, ``366d``."""
    for unit in ("d", "h", "m"):
        if seconds_ and seconds_ % _SECONDS[unit] == 0:
            return f"{seconds_ / _SECONDS[unit]:g}{unit}"
    return f"{seconds_:g}s"


def seconds(least: float = 0.0, most: float = 3600.0, *, above: bool = True) -> SettingKind:
    """A duration in seconds: above ``least``, or at least that."""

    def read(value: Any) -> float:
        wanted = "a duration like 0.5, 30s or 1m30s"
        if isinstance(value, str) and _DURATION.fullmatch(value):
            found = sum(
                float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value)
            )
        else:
            found = _number(value, wanted)
        within = found > least if above else found >= least
        if not (within and found <= most):
            raise SettingError(f"{value} is out of range", f"use {limits}")
        return float(found)

    lower = f"{'above' if above else 'at least'} {duration_text(least)}"
    limits = f"{lower} and at most {duration_text(most)}"
    return SettingKind(f"duration, {limits}", read, "DURATION")


def _number(value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refused(value, wanted)
    try:
        number = float(value)
    except ValueError:
        raise refused(value, wanted) from None
    if math.isnan(number):
        raise refused(str(value), wanted)
    return number


def count(least: int = 1, most: int | None = None, unit: str = "number") -> SettingKind:
    def read(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value, re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise refused(value, "a whole number")
        if value < least or (most is not None and value > most):
            raise SettingError(f"{value} is out of range", f"use {limits}")
        return value

    limits = f"at least {least}" + ("" if most is None else f" and at most {most}")
    return SettingKind(f"{unit}, {limits}", read, "N")


def _size(value: Any) -> int:
    wanted = "a size in bytes like 1000, 64MiB or 1G"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refused(value, wanted)
    matched = _SIZE.fullmatch(str(value))
    if matched is None:
        raise refused(str(value), wanted)
    size = int(float(matched[1]) * _FACTORS[matched[2] or ""])
    if size < 1:
        raise SettingError(f"{value} is out of range", "use at least 1 byte")
    return size


def choice(*options: str) -> SettingKind:
    def read(value: Any) -> str:
        # YAML 1.1 reads on and off as booleans
        plain = {True: "on", False: "off"}.get(value, value) if type(value) is bool else value
        if plain not in options:
            raise SettingError(f"invalid value {plain!r}", f"choose from {', '.join(options)}")
        return str(plain)

    return SettingKind(", ".join(f"`{each}`" for each in options), read, "|".join(options))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise refused(value, "true or false")
    return value


def items(value: Any) -> Iterable[tuple[Steps, str]]:
    """Yield the items of a comma-separated text or a list, with the steps to each."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            try:
                yield (number,), _text(each)
            except SettingError as problem:
                problem.steps = (number,)
                raise
        return
    for each in _text(value).split(","):
        yield (), _text(each.strip())


def _paths(value: Any) -> tuple[Path, ...]:
    return tuple(Path(text) for _, text in items(value))


def words(*options: str) -> SettingKind:
    """A set of words, in the order of ``options``."""

    def read(value: Any) -> tuple[str, ...]:
        found = [text for _, text in items(value)]
        for text in found:
            if text not in options:
                raise SettingError(f"unknown word {text!r}", f"choose from {', '.join(options)}")
        if not found:
            raise SettingError("is empty", f"choose from {', '.join(options)}")
        return tuple(option for option in options if option in found)

    listed = ", ".join(f"`{each}`" for each in options)
    return SettingKind(f"{listed}: a list, or comma-separated", read, "WORDS")


def networks(value: Any) -> dict[str, tuple[str, ...]]:
    """Parse names, each with prefixes and domains; SettingError. See ``split_networks``."""
    if not isinstance(value, dict):
        raise refused(value, "a mapping of names to prefixes")
    found = {}
    for name, given in value.items():
        try:
            found[name] = _network(given)
        except SettingError as problem:
            problem.steps = (name, *problem.steps)
            raise
    return found


def _network(given: Any) -> tuple[str, ...]:
    if not isinstance(given, dict):
        return tuple(_prefix(text) for _, text in items(given))
    entries: list[str] = []
    for key, value in given.items():
        if key not in ("addresses", "domains"):
            raise SettingError(f"unknown field {key!r}", "use addresses and domains")
        read = _prefix if key == "addresses" else _domain
        try:
            entries += [read(text) for _, text in items(value)]
        except SettingError as problem:
            problem.steps = (key, *problem.steps)
            raise
    if not entries:
        raise SettingError("is empty", "give it addresses or domains")
    return tuple(entries)


def _domain(text: str) -> str:
    name = text.lower().rstrip(".")
    if not _DOMAIN.fullmatch(name) or len(name) > 253:
        raise SettingError(
            f"{text!r} is no domain name", "use for example api.example.com, or *.example.com"
        )
    return name


class SplitNetworks(NamedTuple):
    prefixes: dict[str, tuple[str, ...]]
    domains: dict[str, tuple[str, ...]]


def split_networks(given: Mapping[str, tuple[str, ...]]) -> SplitNetworks:
    """Return the prefixes and the domains of named networks; names without any are left out."""
    prefixes, domains = {}, {}
    for name, entries in given.items():
        of_prefix = tuple(each for each in entries if _is_prefix(each))
        of_domain = tuple(each for each in entries if each not in of_prefix)
        if of_prefix:
            prefixes[name] = of_prefix
        if of_domain:
            domains[name] = of_domain
    return SplitNetworks(prefixes, domains)


def _is_prefix(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _addresses(value: Any) -> tuple[str, ...]:
    found = []
    for steps, text in items(value):
        try:
            found.append(str(ipaddress.ip_address(text)))
        except ValueError as error:
            raise SettingError(str(error), "use for example 203.0.113.53", steps) from None
    return tuple(found)


def _ports(most: int) -> Callable[[Any], tuple[int, ...]]:
    def read(value: Any) -> tuple[int, ...]:
        given = value if isinstance(value, list) else [value]
        if isinstance(value, str):
            given = [each.strip() for each in value.split(",")]
        found = tuple(count(1, 65535).read(each) for each in given)
        if len(found) > most:
            raise SettingError(f"{len(found)} ports", f"use at most {most}")
        return found

    return read


def _prefix(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise SettingError(str(error), "use for example 203.0.113.0/24") from None
    return text


def _forwarders(value: Any) -> tuple[str, ...]:
    found = tuple(text for _, text in items(value))
    for pattern in found:
        namespace, _, workload = pattern.partition("/")
        if not namespace or not workload:
            raise SettingError(
                f"{pattern!r} is not NAMESPACE/WORKLOAD",
                "use for example kube-system/egress-gateway; * matches any characters",
            )
    return found


def _policy_names(value: Any) -> tuple[PolicyName, ...]:
    names = []
    for steps, text in items(value):
        name = parse_name(text)
        if name is None:
            raise SettingError(
                f"invalid policy name {text[:200]!r}",
                "use NetworkPolicy/NAMESPACE/NAME, or ClusterNetworkPolicy/NAME",
                steps,
            )
        names.append(name)
    return tuple(dict.fromkeys(names))


TEXT = SettingKind("text", _text, "TEXT")
NAME = SettingKind("text", _text, "NAME")
GLOBS = SettingKind("globs, comma-separated; `!GLOB` excludes", _text, "PATTERN")
PATH = SettingKind("path", _path, "PATH")
LOG = SettingKind("path, or `-` for standard output", _path, "PATH")
SOCKET = SettingKind("path, `auto` or `off`", _text, "PATH")
PATHS = SettingKind("path, or a list of them", _paths, "PATH", repeats=True)
ADDRESS = SettingKind("address and port", _address, "ADDR:PORT")
SIZE = SettingKind("size, such as `64MiB`", _size, "SIZE")
SWITCH = SettingKind("`true`, `false`", _switch, "", switch=True)
POLICY_NAMES = SettingKind(
    "`KIND/NAMESPACE/NAME`, `KIND/NAME` if cluster-scoped, or a list",
    _policy_names,
    "KIND/NAMESPACE/NAME",
    repeats=True,
)
FORWARDERS = SettingKind("`NAMESPACE/WORKLOAD` with `*`, or a list", _forwarders, "PATTERN")
NETWORKS = SettingKind("see [below](#networks)", networks, "")
ADDRESSES = SettingKind("addresses: a list, or comma-separated", _addresses, "ADDRESSES")
PORTS = SettingKind("at most two ports: a list, or comma-separated", _ports(2), "PORTS")

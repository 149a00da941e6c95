"""Reads the agent's ``/metrics``: fetches the text over HTTP, and parses it."""

import http.client
import re
from collections.abc import Mapping
from typing import NamedTuple

_TIMEOUT_SECONDS = 5.0
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One line of the exposition."""

    name: str
    labels: Mapping[str, str]
    value: float  # an int where the text is one: counts stay exact

    def label(self, name: str) -> str:
        """Return a label's value; a missing label is an empty one, as Prometheus has it."""
        return self.labels.get(name, "")


def get(host: str, port: int, path: str) -> tuple[int, str]:
    """Return status and body; raises OSError or HTTPException where nobody answers.

    No proxy from the environment comes between.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain", "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def parse(text: str) -> list[Sample]:
    """Parse the Prometheus text format, version 0.0.4; raises ValueError with the bad line."""
    lines = (line.strip() for line in text.splitlines())
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

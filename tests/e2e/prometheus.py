# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus over a real agent, and its HTTP API."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

READY_SECONDS = 120.0
SCRAPE_SECONDS = 1

Configuration = Mapping[str, Any]


class Sample(NamedTuple):
    """One series of an answer; several values are those of a range."""

    labels: dict[str, str]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Prometheus:
    url: str

    def instant(self, expr: str, at: float) -> list[Sample]:
        found = self._get("query", query=expr, time=f"{at:.3f}")
        return [Sample(each["metric"], (float(each["value"][1]),)) for each in found["result"]]

    def over(self, expr: str, end: float, seconds: float, step: float) -> list[Sample]:
        found = self._get(
            "query_range",
            query=expr,
            start=f"{end - seconds:.3f}",
            end=f"{end:.3f}",
            step=str(step),
        )
        return [
            Sample(each["metric"], tuple(float(value) for _, value in each["values"]))
            for each in found["result"]
        ]

    def values_of(self, label: str, selector: str) -> list[str]:
        """What a variable asks for by ``label_values(selector, label)``."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return found

    def _get(self, what: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                result = error.read().decode()
            raise AssertionError(f"{what} {parameters}: {result}") from None


@contextmanager
def prometheus(
    folder: Path, port: int, scrapes: list[dict[str, object]], rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Runs where the caller is, with ``scrapes`` as its ``scrape_configs``, and ``rule_files``."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus here (Debian package prometheus)")
    every = f"{SCRAPE_SECONDS}s"
    result = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "scrape_configs": scrapes,
        "rule_files": [str(path) for path in rules],
    }
    config = write(folder / "prometheus.yml", result)
    with running(program, config, port, f"--storage.tsdb.path={folder / 'tsdb'}") as url:
        yield Prometheus(url)


def write(path: Path, content: Configuration) -> Path:
    path.write_text(yaml.safe_dump(dict(content)))
    return path


@contextmanager
def running(program: str, config: Path, port: int, *flags: str) -> Iterator[str]:
    """The URL of a program that is ready; it goes with its maker, too."""
    log, url = config.with_suffix(".log"), f"http://127.0.0.1:{port}"
    command = [
        *("setpriv", "--pdeathsig", "KILL", "--", program, f"--config.file={config}"),
        *(f"--web.listen-address=127.0.0.1:{port}", *flags),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + READY_SECONDS
        while not _ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=60):
            return True
    except OSError:
        return False

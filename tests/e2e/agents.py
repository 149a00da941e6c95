# SPDX-License-Identifier: Apache-2.0
"""Starts, kills and queries real agents, and records every value that they showed."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import podtally
from tests.e2e.pods import Counters, Key, counters
from tests.patience import deadline

SOURCES = Path(podtally.__file__).parents[1]
READY_SECONDS = 660.0  # with --compile: seconds, on a busy machine minutes
# Counters that restart with the process, or of a checkpoint that could not be written.
OF_ONE_PROCESS = ("process_", "podtally_checkpoint_errors")
COUNTERS = ("_total", "_bucket", "_count", "_sum")

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]
Samples = dict[Series, float]


@dataclass(frozen=True)
class Places:
    pin_dir: Path
    state_dir: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Agent:
    """One agent process at a time over the same places."""

    places: Places
    flags: tuple[str, ...] = ()
    sources: Path = SOURCES
    log: Path = Path(os.devnull)
    variables: dict[str, str] = field(default_factory=dict)  # more of its environment
    process: subprocess.Popen[bytes] | None = None
    _heard: int = 0

    def command(self, *flags: str) -> list[str]:
        places = self.places
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *(sys.executable, "-m", "podtally", "run", "--interfaces", "ptl-*"),
            *("--pin-dir", str(places.pin_dir), "--state-dir", str(places.state_dir)),
            *("--listen", f"127.0.0.1:{places.port}", "--epoch", "0.1"),
            *("--history", str(places.state_dir / "history.db"), *self.flags, *flags),
        ]

    def start(self, *flags: str) -> None:
        assert self.process is None, "there is one already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*flags), stderr=log, env=environment(self.sources) | self.variables
            )

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        end = deadline(seconds)
        while self.get("/readyz")[0] != 200:
            assert self.process is not None
            assert self.process.poll() is None, f"the agent ended: {self.said()}"
            assert time.monotonic() < end, f"the agent does not get ready: {self.said()}"
            time.sleep(0.02)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        return self._end(number)

    def end(self) -> None:
        if self.process is not None:
            self.kill()

    def detach(self) -> str:
        """Take everything off, as ``podtally detach`` does; returns what it says."""
        places = self.places
        done = subprocess.run(
            [
                *(sys.executable, "-m", "podtally", "detach"),
                *("--pin-dir", str(places.pin_dir), "--state-dir", str(places.state_dir)),
            ],
            capture_output=True,
            text=True,
            env=environment(self.sources),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def said(self) -> str:
        return self.log.read_text()

    def forget_said(self) -> None:
        """``wait_said`` looks only at what comes after this."""
        self._heard = len(self.said())

    def wait_said(self, *words: str) -> None:
        """Wait until one of ``words`` is in the log."""
        end = deadline(READY_SECONDS)
        while not any(each in self.said()[self._heard :] for each in words):
            assert self.process is None or self.process.poll() is None, self.said()
            assert time.monotonic() < end, f"the agent never says {words!r}: {self.said()}"
            time.sleep(0.01)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 without an answer."""
        return get(self.places.url + path)

    def samples(self) -> Samples:
        status, text = self.get("/metrics")
        assert status == 200, f"/metrics answers {status}: {self.said()}"
        return parse(text)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        self.process = None
        return code


def environment(sources: Path = SOURCES) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(sources)}


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except (OSError, http.client.HTTPException):  # not there yet, or killed amid its answer
        return 0, ""


def parse(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the series that have these labels."""
    wanted = set(labels.items())
    return sum(v for (n, have), v in samples.items() if n == name and wanted <= set(have))


def booked(samples: Mapping[Series, float]) -> Counters:
    """Bytes of all accounts, by interface and direction."""
    found: Counters = {}
    for (name, labels), number in samples.items():
        if name == "podtally_books_bytes_total":
            key = _key(labels)
            found[key] = found.get(key, 0) + int(number)
    return found


def gaps(samples: Samples) -> Counters:
    return {
        _key(labels): int(number)
        for (name, labels), number in samples.items()
        if name == "podtally_books_gap_bytes"
    }


def _key(labels: Labels) -> Key:
    named = dict(labels)
    return named["interface"], named["direction"]


@dataclass(frozen=True)
class Misfit:
    """An interface and direction with books that do not close."""

    key: Key
    counted: int  # by the link, since the opening
    booked: int
    gap: int  # as the agent reports it


def misfits(samples: Samples, opening: Counters, closing: Counters) -> list[Misfit]:
    """Hold the books against the links' counters, which the agent has no hand in."""
    books, result = booked(samples), gaps(samples)
    found = [
        Misfit(key, now - opening.get(key, 0), books.get(key, -1), result.get(key, -1))
        for key, now in closing.items()
    ]
    return [each for each in found if each.gap or each.counted != each.booked]


def assert_books_close(agent: Agent, opening: Counters, seconds: float = 60.0) -> Samples:
    """All traffic has stopped: within a few epochs every book must close, to the byte."""
    end = deadline(seconds)
    while True:
        closing, samples = counters(), agent.samples()
        wrong = misfits(samples, opening, closing)
        if not wrong:
            return samples
        assert time.monotonic() < end, f"{wrong}\n{agent.said()}"
        time.sleep(0.1)


class Scraper:
    """Scrapes while the agent answers, and notes every counter that went down or away."""

    def __init__(self, url: str, every: float = 0.2) -> None:
        self._url, self._every = url + "/metrics", every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.last: Samples = {}
        self.scrapes = 0
        self.longest = 0.0
        self.faults: list[str] = []

    def take(self, samples: Samples) -> None:
        now = {s: v for s, v in samples.items() if lasting(s[0])}
        for series, before in self.last.items():
            after = now.get(series)
            if after is None:
                self.faults.append(f"{series} went away at {before}")
            elif after < before:
                self.faults.append(f"{series} went down from {before} to {after}")
        self.last = now
        self.scrapes += 1

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            started = time.monotonic()
            status, text = get(self._url)
            if status == 200:
                self.longest = max(self.longest, time.monotonic() - started)
                self.take(parse(text))

    @contextmanager
    def running(self) -> Iterator["Scraper"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


def lasting(name: str) -> bool:
    return name.endswith(COUNTERS) and not name.startswith(OF_ONE_PROCESS)

# SPDX-License-Identifier: Apache-2.0
"""What the tests of policy share: pods that talk, somewhere outside, and waiting for what the agent reports."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import yaml

from podtally.export.event_log import EventRecord
from podtally.export.flow_log import FlowRecord
from tests.e2e.agents import Agent, Labels, Samples
from tests.e2e.pods import Node, Pod, ip, pod_socket
from tests.patience import deadline
from tests.pressure import Stopwatch

TIMES, SIZE = 23, 997
OUTSIDE = tuple(f"203.0.113.{number}" for number in (10, 11, 12))
TRUTH_SECONDS = 60.0  # until /metrics has what was just done, on the busiest machine
FLOWS, CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
DENIED = "podtally_policy_denied_total"

T = TypeVar("T")
Look = Callable[[Samples], Mapping[str, int]]


# -- who there is -----------------------------------------------------------------------


def outside(node: Node) -> Pod:
    """A namespace that stands for the internet: OUTSIDE are its addresses; it is not watched."""
    world = node.routed_pod("world", 240)
    ip("link", "set", world.link, "down")
    ip("link", "set", world.link, "name", "wire")
    ip("link", "set", "wire", "up")
    ip("-n", world.netns, "link", "set", "lo", "up")
    for address in OUTSIDE:
        ip("-n", world.netns, "addr", "add", f"{address}/32", "dev", "lo")
    ip("route", "add", "203.0.113.0/24", "via", world.ipv4)
    return world


class Static(NamedTuple):
    """A pod of the configuration's ``endpoints``."""

    namespace: str
    name: str
    labels: Mapping[str, str]


def configuration(path: Path, pods: Mapping[str, Static]) -> tuple[str, ...]:
    """Flags of an agent that knows pods, by the names of their network namespaces, and no API."""
    endpoints = [
        {"netns": netns, "namespace": p.namespace, "name": p.name, "labels": dict(p.labels)}
        for netns, p in pods.items()
    ]
    path.write_text(yaml.safe_dump({"kubernetes": "off", "endpoints": endpoints}))
    return ("--config", str(path), *no_other_names(path.parent))


def no_other_names(folder: Path) -> tuple[str, ...]:
    return ("--cri-socket", "off", "--pod-logs", str(folder / "no-logs"))


# -- what they say ----------------------------------------------------------------------


class Talk(NamedTuple):
    """A TCP connection that is open, both ends of it."""

    asking: socket.socket
    answering: socket.socket

    def exchange(self, times: int = TIMES) -> None:
        for _ in range(times):
            self.asking.sendall(bytes(SIZE))
            receive(self.answering, SIZE)
            self.answering.sendall(bytes(SIZE))
            receive(self.asking, SIZE)


@contextmanager
def talk(
    client: Pod | None,
    server: Pod | None,
    port: int,
    to: tuple[str, int] | None = None,
    source: str = "",
) -> Iterator[Talk]:
    """A connection to ``port`` of ``server``, by another address if ``to`` has one.

    None: whoever calls this, which is the node itself.
    """
    if to is None:
        assert server is not None
        to = (server.ipv4, port)
    with stream(server) as listener, stream(client) as asking:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(10)
        listener.bind(("", port))
        listener.listen()
        asking.settimeout(10)
        if source:
            asking.bind((source, 0))
        asking.connect(to)
        answering, _ = listener.accept()
        listener.close()  # so that another may listen there
        with answering:
            answering.settimeout(10)
            yield Talk(asking, answering)


def converse(
    client: Pod | None,
    server: Pod | None,
    port: int,
    to: tuple[str, int] | None = None,
    source: str = "",
) -> None:
    """A connection that says something both ways, and ends."""
    with talk(client, server, port, to, source) as connection:
        connection.exchange(1)


def stream(pod: Pod | None) -> socket.socket:
    if pod is None:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    return pod_socket(pod, socket.AF_INET, socket.SOCK_STREAM)


def receive(end: socket.socket, size: int) -> None:
    while size:
        data = end.recv(size)
        assert data, "the connection was closed"
        size -= len(data)


# -- what the agent reports ---------------------------------------------------------------


def by(label: str, samples: Samples, name: str, **labels: str) -> dict[str, int]:
    """Sums of the series that have these labels, by another label; without zeros."""
    wanted, found = set(labels.items()), dict[str, int]()
    for (each, have), value in samples.items():
        if each == name and wanted <= set(have) and value:
            key = dict(have)[label]
            found[key] = found.get(key, 0) + int(value)
    return found


def verdicts(samples: Samples, name: str = CONNECTIONS, **labels: str) -> dict[str, int]:
    return by("verdict", samples, name, **labels)


def begun(**labels: str) -> Look:
    """Looks for the connections of series that have these labels, by verdict."""
    return lambda samples: verdicts(samples, **labels)


def series_of(samples: Samples, name: str) -> dict[Labels, int]:
    """All series of a metric that are not zero."""
    return {labels: int(v) for (each, labels), v in samples.items() if each == name and v}


def eventually(
    agent: Agent, look: Callable[[Samples], object], wanted: object, seconds: float = TRUTH_SECONDS
) -> Samples:
    """Wait until ``look`` finds in the metrics what is wanted; returns them."""
    end = deadline(seconds)
    while (found := look(samples := agent.samples())) != wanted:
        assert time.monotonic() < end, f"{found} is not {wanted}\n{agent.said()}"
        time.sleep(0.05)
    return samples


def until_verdict(
    agent: Agent,
    connect: Callable[[], None],
    look: Look,
    verdict: str,
    seconds: float = TRUTH_SECONDS,
) -> float:
    """Connect again and again until a connection has this verdict; returns after how long.

    ``look`` returns connections by verdict. The next one has it as well.
    """
    watch, began = Stopwatch(), time.monotonic()
    before = look(agent.samples()).get(verdict, 0)
    while True:
        connect()
        time.sleep(0.1)
        found = look(agent.samples())
        if found.get(verdict, 0) > before:
            break
        assert time.monotonic() < began + seconds, f"{found}, never {verdict}\n{agent.said()}"
    took = watch.unhindered()
    rest = _settled(agent, look)
    connect()
    eventually(agent, look, {**rest, verdict: rest[verdict] + 1})
    return took


def _settled(agent: Agent, look: Look) -> Mapping[str, int]:
    """When nothing more is under way."""
    end = deadline(TRUTH_SECONDS)
    found = look(agent.samples())
    while True:
        time.sleep(0.4)
        now = look(agent.samples())
        if now == found:
            return found
        assert time.monotonic() < end, f"it never comes to rest: {now}"
        found = now


_event = msgspec.json.Decoder(EventRecord)
_record = msgspec.json.Decoder(FlowRecord)


def events(path: Path) -> list[EventRecord]:
    """The whole lines so far."""
    return [_event.decode(line) for line in _lines(path)]


def records(path: Path) -> list[FlowRecord]:
    return [_record.decode(line) for line in _lines(path)]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def wait_for(
    read: Callable[[], list[T]], wanted: Callable[[T], bool], seconds: float = TRUTH_SECONDS
) -> T:
    """The first of what is read that is wanted."""
    end = deadline(seconds)
    while True:
        found = read()
        for each in found:
            if wanted(each):
                return each
        assert time.monotonic() < end, "\n".join(map(str, found)) or "nothing at all"
        time.sleep(0.01)


def write(path: Path, text: str) -> None:
    """In one piece: whoever reads meanwhile finds the old text or the new one."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text)
    os.replace(fresh, path)

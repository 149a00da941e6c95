# SPDX-License-Identifier: Apache-2.0
"""A client, a server and a node between them that routes, drops and rejects, with the agent."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.node import LISTEN, NODE, PIN_DIR, ip, ready, remove_pins, until
from bench.outcomes_ends import (
    CLIENT_RESETS,
    DYING,
    ECHO,
    GRACEFUL,
    SERVER_DIES,
    SERVER_RESETS,
    SINK,
)
from bench.outcomes_raw import PING, SCTP, TCP, UDP, Attempts
from podtally.errors import PodtallyError

CLIENT, SERVER = "ptl-bench-client", "ptl-bench-server"
INTERFACE = "ptlbc"  # the node's end of the client's pair
ADDRESSES = {CLIENT: ("10.99.1.2", "2001:db8:1::2"), SERVER: ("10.99.2.2", "2001:db8:2::2")}
NOWHERE = ("198.18.9.1", "2001:db8:9::1")  # the node has no route there, and says so
ANYWHERE = ("198.18.32.1", "2001:db8:32::1")  # all addresses of these networks are the server's
SILENT = ("198.18.64.1", "2001:db8:64::1")  # the node drops what goes there
PING_PORT = 0
_SAMPLE = re.compile(r"(podtally_\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

AT_NODE = """
table inet bench {
  chain forward {
    type filter hook forward priority 0
    tcp dport 8002 drop
    tcp dport 8003 reject
    tcp dport 8004 reject with tcp reset
    udp dport 9003 drop
    sctp dport 9003 drop
    ip daddr 198.18.64.0/19 drop
    ip6 daddr 2001:db8:64::/64 drop
  }
}
"""
AT_SERVER = """
table inet bench {
  chain input {
    type filter hook input priority 0
    tcp dport 8005 drop
    tcp dport 8006 reject
  }
}
"""


class Kind(NamedTuple):
    """Connections to one port, and the outcome of those that failed with a refusal."""

    port: int
    share: int
    protocol: str = TCP
    to: tuple[str, str] = ("", "")  # by family; else the server
    refusal: str = "rejected"
    silent: bool = False  # no answer is expected


KINDS = (
    Kind(GRACEFUL, 20),
    Kind(8001, 20, refusal="refused"),
    Kind(8002, 6, silent=True),
    Kind(8003, 10),
    Kind(8004, 10, refusal="refused"),
    Kind(8005, 6, silent=True),
    Kind(8006, 10),
    Kind(SERVER_RESETS, 10),
    Kind(CLIENT_RESETS, 10),
    Kind(SERVER_DIES, 2),
    Kind(8010, 8, to=NOWHERE),
    Kind(ECHO, 20, UDP),
    Kind(SINK, 6, UDP, silent=True),
    Kind(9002, 12, UDP),
    Kind(9003, 6, UDP, silent=True),
    Kind(9010, 8, UDP, NOWHERE),
    Kind(ECHO, 6, SCTP),
    Kind(SINK, 3, SCTP, silent=True),
    Kind(9003, 3, SCTP, silent=True),
    Kind(9010, 4, SCTP, NOWHERE),
    Kind(PING_PORT, 3, PING, ANYWHERE),  # each to an address of its own
    Kind(PING_PORT, 2, PING, SILENT, silent=True),
    Kind(PING_PORT, 2, PING, NOWHERE),
)
_WORKED = {"closed": "closed", "reset by us": "reset_by_endpoint", "reset by peer": "reset_by_peer"}


def expected(kind: Kind, seen: str) -> str:
    """Return the outcome at the client's interface of a connection that saw this."""
    if seen in _WORKED or seen == "stuck":
        return "established"
    if seen == "answered":
        return seen
    return "unanswered" if seen == "timeout" else kind.refusal


class Seen(NamedTuple):
    """What the clients saw: connections by port and outcome, and by ending."""

    outcomes: Counter[tuple[str, int, str]]
    endings: Counter[str]
    odd: int  # errors that no kind explains


class Run:
    """The agent on the node, killed and started again."""

    def __init__(self, state: str, flags: tuple[str, ...], kills: int) -> None:
        self._command = [sys.executable, "-m", "podtally", "run", "--pin-dir", str(PIN_DIR)]
        self._command += ["--state-dir", state, "--history", f"{state}/history.db"]
        self._command += ["--listen", LISTEN, *flags]
        self._kills, self.killed = kills, 0
        self._log = Path(state) / "agent.log"
        self._start()
        self._wait()

    def connect(self, total: int, client_port: int = 10_000) -> Seen:
        """Make ``total`` connections of all kinds, and kill the agent meanwhile."""
        wanted, attempts = _attempts(total, client_port)
        done = threading.Event()
        killer = threading.Thread(target=self._kill, args=(done,))
        killer.start()
        try:
            found = run_client(attempts)
        finally:
            done.set()
            killer.join()
        outcomes, endings, odd = Counter[tuple[str, int, str]](), Counter[str](), 0
        for kind, seen in zip(wanted, found, strict=True):
            for word, count in seen.items():
                outcomes[kind.protocol, kind.port, expected(kind, word)] += count
                odd += count * (word == "stuck")
                if word in _WORKED:
                    endings[_WORKED[word]] += count
        return Seen(outcomes, endings, odd)

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{NODE}", *self._command], stderr=log
            )

    def _kill(self, done: threading.Event) -> None:
        pauses = iter([4.0] * self._kills)
        while not done.wait(next(pauses, 3600.0)):
            self.kill()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.killed += 1
        self._start()
        self._wait()

    def _wait(self) -> None:
        try:
            until(ready, self._process)
        except PodtallyError as error:
            raise PodtallyError(f"{error}{self._log.read_text()[-2000:]}") from None

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)


def _attempts(total: int, client_port: int) -> tuple[list[Kind], list[Attempts]]:
    parts = 2 * sum(kind.share for kind in KINDS)
    wanted, attempts = [], []
    for kind in KINDS:
        count = max(1, total * kind.share // parts)
        if kind.port == SERVER_DIES:
            count = -(-count // DYING) * DYING
        for family in (0, 1):
            address = kind.to[family] or ADDRESSES[SERVER][family]
            wanted.append(kind)
            attempts.append(
                Attempts(address, kind.port, kind.protocol, client_port, count, kind.silent)
            )
    return wanted, attempts


def run_client(attempts: list[Attempts]) -> list[dict[str, int]]:
    ran = subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{CLIENT}",
            sys.executable,
            "-m",
            "bench.outcomes_ends",
            "client",
        ],
        input=json.dumps(attempts).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: list[dict[str, int]] = json.loads(ran.stdout)
    return found


def samples(metric: str) -> list[tuple[dict[str, str], float]]:
    """Return the series of a metric of the agent."""
    url = f"http://{LISTEN}/metrics"
    code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=20).read().decode())"
    asked = subprocess.run(
        ["nsenter", f"--net=/run/netns/{NODE}", sys.executable, "-Sc", code],
        check=True,
        capture_output=True,
        text=True,
    )
    found = _SAMPLE.findall(asked.stdout)
    return [
        (dict(_LABEL.findall(text)), float(value)) for name, text, value in found if name == metric
    ]


@contextmanager
def made() -> Iterator[None]:
    """Make the namespaces, and run the server."""
    server = None
    try:
        ip(f"netns add {NODE}", f"netns add {CLIENT}", f"netns add {SERVER}")
        ip(f"-n {NODE} link set lo up")
        for name, interface in ((CLIENT, INTERFACE), (SERVER, "ptlbs")):
            four, six = ADDRESSES[name]
            ip(
                f"-n {NODE} link add {interface} up type veth peer name eth0 netns {name}",
                f"-n {name} link set lo up",
                f"-n {name} link set eth0 up",
                f"-n {name} addr add {four}/24 dev eth0",
                f"-n {name} addr add {six}/64 dev eth0 nodad",
                f"-n {NODE} addr add {four[:-1]}1/24 dev {interface}",
                f"-n {NODE} addr add {six[:-1]}1/64 dev {interface} nodad",
                f"-n {name} route add default via {four[:-1]}1",
                f"-n {name} -6 route add default via {six[:-1]}1",
            )
        for name in (NODE, SERVER):
            for setting in (
                *("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
                *("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"),
                *("net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.icmp_msgs_burst=1000000"),
            ):
                _run(name, ["sysctl", "-qw", setting])
        ip(f"-n {NODE} route add unreachable 198.18.8.0/21")
        ip(f"-n {NODE} -6 route add unreachable 2001:db8:9::/64")
        four, six = ADDRESSES[SERVER]
        ip(
            *(f"-n {NODE} route add {each}.0/19 via {four}" for each in ("198.18.32", "198.18.64")),
            *(f"-n {NODE} -6 route add 2001:db8:{each}::/64 via {six}" for each in (32, 64)),
            f"-n {SERVER} route add local 198.18.32.0/19 dev lo",
            f"-n {SERVER} -6 route add local 2001:db8:32::/64 dev lo",
        )
        for name, rules in ((NODE, AT_NODE), (SERVER, AT_SERVER)):
            _run(name, ["nft", "-f", "-"], rules)
        server = background(SERVER, ["server"])
        yield
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        remove_pins()
        for name in (CLIENT, SERVER, NODE):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def background(namespace: str, arguments: list[str]) -> subprocess.Popen[str]:
    """Run one of ``bench.outcomes_ends`` in a namespace, until it is ready."""
    process = subprocess.Popen(
        [
            *("nsenter", f"--net=/run/netns/{namespace}"),
            *(sys.executable, "-m", "bench.outcomes_ends", *arguments),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise PodtallyError(f"{' '.join(arguments)} did not start")
    return process


def _run(namespace: str, command: list[str], given: str = "") -> None:
    subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", *command],
        input=given.encode(),
        check=False,
        capture_output=True,
    )

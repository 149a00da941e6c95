# SPDX-License-Identifier: Apache-2.0
"""Real DNS servers in pods, and real clients that ask them."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.pods import Pod
from tests.patience import deadline

SECONDS = 30.0  # until a server answers, on the busiest machine


@contextmanager
def unbound(pod: Pod, folder: Path, records: Mapping[str, tuple[str, int]]) -> Iterator[None]:
    """Serve names with an address and a TTL each; over UDP and TCP."""
    lines = [
        "server:",
        *("  " + line for line in _UNBOUND.splitlines()),
        f"  directory: {folder}",
        *(f'  local-zone: "{name}." redirect' for name in records),
        *(f'  local-data: "{name}. {ttl} IN A {ip}"' for name, (ip, ttl) in records.items()),
        "remote-control:",
        "  control-enable: no",
    ]
    file = folder / f"unbound-{pod.netns}.conf"
    file.write_text("\n".join(lines) + "\n")
    with _serving(pod, ["unbound", "-d", "-p", "-c", str(file)], next(iter(records))):
        yield


@contextmanager
def dnsmasq(pod: Pod, records: Mapping[str, tuple[str, int]], *flags: str) -> Iterator[None]:
    hosts = [f"--host-record={name},{ip},{ttl}" for name, (ip, ttl) in records.items()]
    command = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]
    with _serving(
        pod, [*command, "--user=root", "--pid-file=", *hosts, *flags], next(iter(records))
    ):
        yield


def dig(client: Pod, server: str, name: str, *more: str) -> list[str]:
    """Ask with dig; return the addresses."""
    command = ["dig", f"@{server}", name, "A", "+short", "+tries=1", "+time=5", *more]
    done = subprocess.run(
        ["ip", "netns", "exec", client.netns, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.split() if line[0].isdecimal()]


_UNBOUND = """\
interface: 0.0.0.0
access-control: 0.0.0.0/0 allow
do-daemonize: no
chroot: ""
username: ""
pidfile: ""
logfile: ""
use-syslog: no
verbosity: 0
num-threads: 1
module-config: "iterator"
"""


@contextmanager
def _serving(pod: Pod, command: list[str], name: str) -> Iterator[None]:
    server = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", "ip", "netns", "exec", pod.netns, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_it_answers(server, pod, name)
        yield
    finally:
        server.kill()
        server.wait()


def _until_it_answers(server: subprocess.Popen[bytes], pod: Pod, name: str) -> None:
    """Ask on the server's own loopback, which nothing watches."""
    end = deadline(SECONDS)
    subprocess.run(["ip", "-n", pod.netns, "link", "set", "lo", "up"], check=True)
    while True:
        asked = ["dig", "@127.0.0.1", name, "A", "+short", "+tries=1", "+time=1"]
        done = subprocess.run(
            ["ip", "netns", "exec", pod.netns, *asked], capture_output=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            return
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.05)

# SPDX-License-Identifier: Apache-2.0
"""Server names in TLS, as OpenSSL sends them over veth: in large segments (TSO), and in several."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node, Pod
from tests.e2e.test_domain_names import OUTSIDE, PORT, outside
from tests.kernel.links_support import inside

SECONDS = 60.0
ETHERNET_HEADER, MTU = 14, 1500
# Protocols fill a ClientHello, as key shares of post-quantum groups do: 1.2 KB for ML-KEM-768.
PLAIN, POST_QUANTUM, HUGE = 0, 1300, 9000


def offload(pod: Pod, state: str) -> None:
    words = ("ethtool", "-K", "eth0", "tso", state, "gso", state, "tx", state)
    command = ["ip", "netns", "exec", pod.netns, *words]
    subprocess.run(command, check=True, capture_output=True)


def tls_context(padding: int) -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if padding:
        made.set_alpn_protocols([f"p{i:03d}-{'x' * 44}" for i in range(padding // 50)])
    return made


def shake_hands(pod: Pod, name: str, padding: int) -> None:
    """Begin a TLS connection; the server answers with something else."""
    context = tls_context(padding)  # before: connections wait 0.15 s for a server name
    with inside(pod.netns):
        connection = socket.create_connection((OUTSIDE, PORT), timeout=SECONDS)
    with connection, suppress(OSError):
        context.wrap_socket(connection, server_hostname=name)


def send_at_once(pod: Pod, name: str, more: int) -> None:
    """Send OpenSSL's ClientHello and data behind it with one call: in large segments."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_context(POST_QUANTUM).wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with inside(pod.netns):
        connection = socket.create_connection((OUTSIDE, PORT), timeout=SECONDS)
    with connection, suppress(OSError):
        connection.sendall(outgoing.read() + b"\x17" * more)
        while connection.recv(9999):
            pass


@contextmanager
def longest_frame(link: str) -> Iterator[list[int]]:
    """Yields a list that gets the length of the longest frame that comes from the pod."""
    found: list[int] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as reading:
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        reading.bind((link, 3))
        reading.settimeout(0.2)
        stop, lengths = threading.Event(), [0]

        def read() -> None:
            while not stop.is_set():
                with suppress(TimeoutError):
                    size, _, _, address = reading.recvmsg_into([bytearray(16)], 0, socket.MSG_TRUNC)
                    if address[2] != socket.PACKET_OUTGOING:
                        lengths.append(size)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield found
            time.sleep(0.3)
        finally:
            stop.set()
            thread.join()
            found.append(max(lengths))


@pytest.mark.slow
def test_server_names_in_segments_of_any_size(
    node: Node, make_agent: MakeAgent, tmp_path: Path
) -> None:
    log = tmp_path / "flows.jsonl"
    agent = make_agent("--flow-log", str(log), "--name-wait", "1")
    pod, names = node.routed_pod("web", 7), []
    with outside(node):
        agent.start()
        agent.wait_ready()
        for state, paddings in (
            ("on", (PLAIN, POST_QUANTUM, HUGE)),
            ("off", (PLAIN, POST_QUANTUM)),  # at most two segments are read
        ):
            offload(pod, state)
            for padding in paddings:
                names.append(f"{state}{padding}.example.com")
                with longest_frame(pod.link) as longest:
                    shake_hands(pod, names[-1], padding)
                is_large = state == "on" and padding
                assert (longest[0] > MTU + ETHERNET_HEADER) == bool(is_large), longest
            names.append(f"{state}64k.example.com")
            with longest_frame(pod.link) as longest:
                send_at_once(pod, names[-1], 60_000)
            assert (longest[0] > 4 * MTU) == (state == "on"), longest
        wait_for_names(log, set(names))


def wait_for_names(log: Path, wanted: set[str]) -> None:
    end = time.monotonic() + SECONDS
    while True:
        lines = log.read_text() if log.exists() else ""
        peers = [json.loads(line)["peer"] for line in lines.splitlines(keepends=True)]
        found = {each["domain"] for each in peers if each.get("domain_source") == "tls"}
        if found == wanted:
            return
        assert time.monotonic() < end, (sorted(wanted - found), lines)
        time.sleep(0.2)

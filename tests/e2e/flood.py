# SPDX-License-Identifier: Apache-2.0
"""Sends to many UDP flows in turn from inside a pod, 1,000 for each source port, then ends.

Usage: python -m tests.e2e.flood OWN PEER FIRST_SOURCE SOURCES PACKETS PACKETS_PER_SECOND
"""

import socket
import sys
import time

DESTINATIONS = 1000  # ports
FIRST_DESTINATION = 20000
BURST = 100  # between two looks at the clock


def main(own: str, peer: str, *amounts: str) -> None:
    first, sources, count, rate = map(int, amounts)
    sockets = [_bound(own, first + i) for i in range(sources)]
    targets = [(peer, FIRST_DESTINATION + i) for i in range(DESTINATIONS)]
    started, sent = time.monotonic(), 0
    while sent < count:
        for number in range(sent, sent + BURST):
            flow = number % (sources * DESTINATIONS)
            _send(sockets[flow % sources], targets[flow // sources])
        sent += BURST
        time.sleep(max(0.0, started + sent / rate - time.monotonic()))


def _bound(own: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((own, port))
    return made


def _send(through: socket.socket, to: tuple[str, int]) -> None:
    try:
        through.sendto(b"x" * 23, to)
    except OSError:  # what was not sent is not counted
        time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""One pod of ``scripts/bench audit``: listens on PORTS, and connects as instructed.

python -m bench.audit_pod < lines of JSON, lists of (address, port); answers each with a line
"""

import json
import selectors
import socket
import sys
import threading
import time

PORTS = tuple(base + number for base in (8000, 9000) for number in range(4))
PATIENCE_SECONDS = 1.5


def serve() -> None:
    listening = selectors.DefaultSelector()
    for port in PORTS:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen(256)
        listening.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in listening.select():
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.accept()[0].close()


def connect(to: list[tuple[str, int]]) -> int:
    """Connect to all at once; return how many were established."""
    waiting, opened = selectors.DefaultSelector(), 0
    for address, port in to:
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((address, port))
        waiting.register(client, selectors.EVENT_WRITE)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            assert isinstance(key.fileobj, socket.socket)
            waiting.unregister(key.fileobj)
            opened += not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            key.fileobj.close()
    for key in list(waiting.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return opened


if __name__ == "__main__":
    threading.Thread(target=serve, daemon=True).start()
    for line in sys.stdin:
        print(connect(json.loads(line)), flush=True)

# SPDX-License-Identifier: Apache-2.0
"""The two ends and the packet capture of ``scripts/bench outcomes``, each run in its namespace.

python -m bench.outcomes_ends server
python -m bench.outcomes_ends client < JSON    prints what each connection saw
python -m bench.outcomes_ends capture INTERFACE PORT    prints handshake times until a signal
"""

import errno
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

from bench.outcomes_raw import (
    PING,
    RECVERR,
    SCTP,
    TCP,
    UDP,
    Attempts,
    associate,
    ping,
    sctp_server,
    word,
)

GRACEFUL, SERVER_RESETS, CLIENT_RESETS, SERVER_DIES = 8000, 8007, 8008, 8009
ECHO, SINK = 9000, 9001
DYING = 50  # connections that one dying server accepts
AT_ONCE = 400
_LINGER = struct.pack("ii", 1, 0)  # close() sends a RST
_SYN, _ACK = 2, 16


# -- the server -------------------------------------------------------------------------


def serve() -> None:
    threading.Thread(target=_datagrams, daemon=True).start()
    for family in (socket.AF_INET, socket.AF_INET6):
        threading.Thread(target=sctp_server, args=(family, ECHO), daemon=True).start()
    threading.Thread(target=_die_again, daemon=True).start()
    listening = selectors.DefaultSelector()
    for port in (GRACEFUL, SERVER_RESETS, CLIENT_RESETS):
        listening.register(_listener(port), selectors.EVENT_READ, port)
    print("ready", flush=True)
    while True:
        for key, _ in listening.select():
            assert isinstance(key.fileobj, socket.socket)
            connection, _ = key.fileobj.accept()
            if key.data == SERVER_RESETS:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                connection.close()
            else:
                threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(4096)
    return listener


def _answer(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while data := connection.recv(64):
            connection.sendall(data)


def _datagrams() -> None:
    waiting = selectors.DefaultSelector()
    for port in (ECHO, SINK):
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        receiver.bind(("::", port))
        waiting.register(receiver, selectors.EVENT_READ, port)
    while True:
        for key, _ in waiting.select():
            assert isinstance(key.fileobj, socket.socket)
            data, sender = key.fileobj.recvfrom(64)
            if key.data == ECHO:
                key.fileobj.sendto(data, sender)


def _die_again() -> None:
    """Let servers accept DYING connections, read nothing, and be killed."""
    while True:
        child = os.fork()
        if not child:
            listener = _listener(SERVER_DIES)
            kept = [listener.accept()[0] for _ in range(DYING)]
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
            kept.clear()
        os.waitpid(child, 0)


# -- the client -------------------------------------------------------------------------


def attempt(kind: Attempts) -> Counter[str]:
    """Make the connections, AT_ONCE at a time; return what they saw."""
    seen: Counter[str] = Counter()
    at_once = DYING if kind.port == SERVER_DIES else AT_ONCE
    for first in range(0, kind.amount, at_once):
        some = range(first, min(first + at_once, kind.amount))
        ways = {TCP: _tcp, UDP: _udp, SCTP: associate, PING: ping}
        seen += ways[kind.protocol](kind, some)
        if kind.port == SERVER_DIES:
            time.sleep(0.2)
    return seen


def _tcp(kind: Attempts, some: range) -> Counter[str]:
    waiting, seen = selectors.DefaultSelector(), Counter[str]()
    for number in some:
        connection = _client(kind, number, socket.SOCK_STREAM)
        failed = connection.connect_ex((kind.address, kind.port))
        if failed not in (0, errno.EINPROGRESS):
            seen[word(failed)] += 1
            connection.close()
            continue
        waiting.register(connection, selectors.EVENT_WRITE)
    deadline = time.monotonic() + kind.patience
    opened = []
    while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            assert isinstance(key.fileobj, socket.socket)
            waiting.unregister(key.fileobj)
            failed = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed and not (failed == errno.ECONNRESET and kind.port == SERVER_RESETS):
                seen[word(failed)] += 1
                key.fileobj.close()
            else:
                opened.append(key.fileobj)
    _give_up(waiting, seen)
    for connection in opened:
        seen[_use(connection, kind.port)] += 1
    return seen


def _give_up(waiting: selectors.BaseSelector, seen: Counter[str]) -> None:
    """Close what is left; an error may have come since."""
    for key in list(waiting.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        failed = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        seen[word(failed) if failed else "timeout"] += 1
        key.fileobj.close()


def _use(connection: socket.socket, port: int) -> str:
    with connection:
        connection.settimeout(20)
        if port == CLIENT_RESETS:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            return "reset by us"
        try:
            connection.sendall(b"data")
            answer = connection.recv(64)
        except (ConnectionResetError, BrokenPipeError):
            return "reset by peer"
        except TimeoutError:
            return "stuck"
    return "closed" if answer else "reset by peer"


def _udp(kind: Attempts, some: range) -> Counter[str]:
    waiting, seen = selectors.DefaultSelector(), Counter[str]()
    for number in some:
        sender = _client(kind, number, socket.SOCK_DGRAM)
        level = socket.IPPROTO_IPV6 if ":" in kind.address else socket.IPPROTO_IP
        # else an unreachable host is not reported to the socket
        sender.setsockopt(level, RECVERR[level], 1)
        try:
            sender.connect((kind.address, kind.port))
            sender.send(b"data")
        except OSError as error:
            seen[word(error.errno or 0)] += 1
            sender.close()
            continue
        waiting.register(sender, selectors.EVENT_READ)
    deadline = time.monotonic() + kind.patience
    while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            assert isinstance(key.fileobj, socket.socket)
            waiting.unregister(key.fileobj)
            with key.fileobj as sender:
                try:
                    sender.recv(64)
                    seen["answered"] += 1
                except OSError as error:
                    seen[word(error.errno or 0)] += 1
    _give_up(waiting, seen)
    return seen


def _client(kind: Attempts, number: int, what: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in kind.address else socket.AF_INET
    client = socket.socket(family, what)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("", kind.first_port + number))
    client.setblocking(False)
    return client


# -- the capture ------------------------------------------------------------------------


def capture(interface: str, port: int) -> None:
    """Print ``CLIENT_PORT SYN_NS SYN_ACK_NS ACK_NS`` of each handshake at the end."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packets.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
    packets.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
    packets.bind((interface, 0))
    packets.settimeout(0.2)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print("ready", flush=True)
    times: dict[int, dict[str, int]] = {}
    while not stop.is_set():
        try:
            data, ancillary, _, _ = packets.recvmsg(128, 128)
        except TimeoutError:
            continue
        if data[12:14] != b"\x08\x00" or data[23] != socket.IPPROTO_TCP:
            continue
        source, destination = struct.unpack_from("!HH", data, 34)
        flags, (at, rest) = data[47], struct.unpack("qq", ancillary[0][2])
        kind = {_SYN: "syn", _SYN | _ACK: "syn_ack"}.get(flags & (_SYN | _ACK), "ack")
        if port in (source, destination):
            client = source if destination == port else destination
            its = times.setdefault(client, {})
            if kind != "ack" or destination == port:
                its.setdefault(kind, at * 10**9 + rest)
    for client, its in times.items():
        if len(its) == 3:
            print(client, its["syn"], its["syn_ack"], its["ack"])


def main() -> None:
    what = sys.argv[1]
    if what == "server":
        serve()
    elif what == "capture":
        capture(sys.argv[2], int(sys.argv[3]))
    else:
        seen = [dict(attempt(Attempts(*kind))) for kind in json.load(sys.stdin)]
        json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()

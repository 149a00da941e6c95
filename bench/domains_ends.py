# SPDX-License-Identifier: Apache-2.0
"""The ends of the benchmark `domains`: ``python -m bench.domains_ends server|clients``.

server SHARED CERTIFICATE  serves DNS and what the names lead to, until it is killed
clients                    reads Work from stdin, and prints a Truth for each connection
"""

import ctypes
import itertools
import json
import os
import random
import socket
import socketserver
import ssl
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset

from bench import domains_zone as zone

PLAIN_PORT, TLS_PORT = 8000, 8443
RESOLVERS = ("198.18.0.53", "2001:db8::53")
FIRST_PORT, PORTS = 10_000, 500  # of a pod's connections: they identify them
_SECONDS = 5.0
_CLONE_NEWNET = 0x40000000
_STALE_SHARE = 0.3  # of connections that use an answer from the application's cache


class Work(NamedTuple):
    """What the clients do; every tenth pod learns its addresses from elsewhere, not by DNS."""

    pods: tuple[str, ...]  # their namespaces
    names: int
    each: int  # names that a pod uses
    shared: int
    seconds: float
    interval: float
    seed: int


class Truth(NamedTuple):
    """A connection, as its client knows it."""

    port: int  # of the client
    name: str
    is_tls: bool
    by_dns: bool
    rivals: int  # other names for which the pod was given this address before


# -- the server -------------------------------------------------------------------------


def serve(shared: int, certificate: str) -> None:
    turns = itertools.count()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def reply(data: bytes, over_udp: bool) -> bytes:
        asked = dns.message.from_wire(data)
        question = asked.question[0]
        family = 4 if question.rdtype == dns.rdatatype.A else 6
        text = question.name.to_text(omit_final_dot=True)
        found = zone.answer(text, family, shared, next(turns))
        made = dns.message.make_response(asked)
        if found.is_truncated and over_udp:
            made.flags |= dns.flags.TC
            return made.to_wire()
        owner = text
        records = [(alias, "CNAME", [f"{alias}."]) for alias in found.chain]
        records.append(("", "A" if family == 4 else "AAAA", list(found.addresses)))
        for behind, kind, values in records:
            made.answer.append(dns.rrset.from_text(f"{owner}.", found.ttl, "IN", kind, *values))
            owner = behind
        return made.to_wire()

    class Datagrams(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, answering = self.request
            answering.sendto(reply(data, True), self.client_address)

    class Stream(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, EOFError, dns.exception.DNSException):
                data, _ = dns.query.receive_tcp(self.request, time.time() + _SECONDS)
                wire = reply(data.to_wire(), False)
                self.request.sendall(len(wire).to_bytes(2) + wire)

    class Page(socketserver.BaseRequestHandler):
        is_tls = False

        def handle(self) -> None:
            self.request.settimeout(_SECONDS)
            with suppress(OSError):
                connection = self.request
                if self.is_tls:
                    connection = context.wrap_socket(connection, server_side=True)
                if connection.recv(4096):
                    connection.sendall(bytes(3000))
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)

    class SecurePage(Page):
        is_tls = True

    for port, handler in ((PLAIN_PORT, Page), (TLS_PORT, SecurePage), (53, Stream)):
        threading.Thread(target=_Tcp(("::", port), handler).serve_forever, daemon=True).start()
    for address in RESOLVERS:
        datagrams = (_Udp6 if ":" in address else socketserver.UDPServer)((address, 53), Datagrams)
        threading.Thread(target=datagrams.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


class _Tcp(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


class _Udp6(socketserver.UDPServer):
    address_family = socket.AF_INET6


# -- the clients ------------------------------------------------------------------------


class _Client:
    def __init__(self, work: Work, number: int) -> None:
        self._work, self._number = work, number
        self._random = random.Random(work.seed * 1000 + number)
        self._by_dns = number % 10 != 9
        first = number * work.each
        self._names = [zone.name((first + each) % work.names) for each in range(work.each)]
        self._cache: dict[tuple[str, int], tuple[list[str], float]] = {}
        self._known: dict[str, set[str]] = {}  # names by address
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context
        self.truths: list[Truth] = []
        self.failures: list[str] = []
        self.over_tcp = 0  # answers
        self.stale = 0  # connections by an expired answer

    def run(self) -> None:
        with Path("/run/netns", self._work.pods[self._number]).open() as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), _CLONE_NEWNET):  # of this thread alone
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        end = time.monotonic() + self._work.seconds
        for turn in range(PORTS):
            time.sleep(self._random.uniform(0.5, 1.5) * self._work.interval)
            if time.monotonic() > end:
                return
            try:
                self._once(FIRST_PORT + self._number * PORTS + turn)
            except (OSError, EOFError, dns.exception.DNSException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def _once(self, port: int) -> None:
        name, family = self._random.choice(self._names), self._random.choice((4, 6))
        address = self._random.choice(self._addresses(name, family))
        is_tls = self._random.random() < 0.5
        rivals = len(self._known.get(address, set()) - {name})
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with socket.socket(kind, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.bind(("", port))
            # Also what fails half-way is a connection.
            self.truths.append(Truth(port, name, is_tls, self._by_dns, rivals))
            connection.connect((address, TLS_PORT if is_tls else PLAIN_PORT))
            talking = connection
            if is_tls:
                talking = self._tls.wrap_socket(connection, server_hostname=name)
            with talking:
                talking.sendall(bytes(self._random.randrange(100, 2000)))
                while talking.recv(4096):
                    pass

    def _addresses(self, name: str, family: int) -> list[str]:
        found, expires = self._cache.get((name, family), ([], 0.0))
        now = time.monotonic()
        if found and (now < expires or self._random.random() < _STALE_SHARE):
            self.stale += now >= expires
            return found
        if self._by_dns:
            found, ttl = self._ask(name, family)
            for address in found:
                self._known.setdefault(address, set()).add(name)
        else:
            answer = zone.answer(name, family, self._work.shared, self._random.randrange(100))
            found, ttl = list(answer.addresses), answer.ttl
        self._cache[name, family] = found, now + ttl
        return found

    def _ask(self, name: str, family: int) -> tuple[list[str], int]:
        query = dns.message.make_query(name, "A" if family == 4 else "AAAA")
        resolver = self._random.choice(RESOLVERS)
        answered, was_tcp = dns.query.udp_with_fallback(query, resolver, timeout=_SECONDS)
        self.over_tcp += was_tcp
        rows = answered.answer[-1]
        return [row.to_text() for row in rows], rows.ttl


def run_clients(work: Work) -> dict[str, object]:
    clients = [_Client(work, number) for number in range(len(work.pods))]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "truths": [each for client in clients for each in client.truths],
        "failures": [each for client in clients for each in client.failures],
        "answers over TCP": sum(client.over_tcp for client in clients),
        "connections after the TTL": sum(client.stale for client in clients),
    }


def main() -> None:
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        json.dump(run_clients(Work(*json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()

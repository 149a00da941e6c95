# SPDX-License-Identifier: Apache-2.0
"""The demo's DNS: a resolver that knows a few names, and its client."""

import socket
import struct
from collections.abc import Iterable

from podtally.demo.topology import DNS_PORT, NAMES, RESOLVER
from podtally.dns.message import NXDOMAIN, A, parse_message
from podtally.dns.wire_names import MessageError

_HEADER = struct.Struct(">6H")
_QUESTION = struct.Struct(">HH")
_ANSWER = struct.Struct(">HHHIH4s")
_IN = 1
_QUERY, _RESPONSE = 0x0100, 0x8180  # with the bits for recursion
_OWNER = 0xC00C  # a pointer to the question's name
_TTL_SECONDS = 30
_MAX_MESSAGE = 512  # over UDP, RFC 1035 2.3.4


def serve() -> None:
    """Answer questions over UDP until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((RESOLVER.address, DNS_PORT))
        while True:
            message, client = listening.recvfrom(_MAX_MESSAGE)
            if reply := answer(message):
                listening.sendto(reply, client)


def resolve(name: str, timeout_seconds: float) -> str:
    """Return the address of a name; OSError if the resolver gives none in time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_seconds)
        asking.connect((RESOLVER.address, DNS_PORT))
        # The kernel chose a port at random: it identifies the question as well as an id.
        asking.send(query(name, asking.getsockname()[1]))
        addresses = _addresses(asking.recv(_MAX_MESSAGE))
    for address in addresses:
        return address
    raise OSError(f"{name} has no address")


def query(name: str, number: int) -> bytes:
    """Return a message that asks for a name's IPv4 addresses."""
    return _HEADER.pack(number, _QUERY, 1, 0, 0, 0) + _question(name, A)


def answer(message: bytes) -> bytes:
    """Return the response to a message; empty if it is no question."""
    try:
        asked = parse_message(message)
    except MessageError:
        return b""
    if asked is None or asked.is_response:
        return b""
    address = NAMES.get(asked.name)
    rcode = 0 if address else NXDOMAIN
    records = b""
    if address and asked.type == A:
        data = socket.inet_aton(address)
        records = _ANSWER.pack(_OWNER, A, _IN, _TTL_SECONDS, len(data), data)
    counts = (1, 1 if records else 0, 0, 0)
    head = _HEADER.pack(asked.id, _RESPONSE | rcode, *counts)
    return head + _question(asked.name, asked.type) + records


def _question(name: str, kind: int) -> bytes:
    labels = (label.encode() for label in name.split("."))
    return (
        b"".join(bytes((len(each),)) + each for each in labels) + b"\0" + _QUESTION.pack(kind, _IN)
    )


def _addresses(message: bytes) -> Iterable[str]:
    try:
        found = parse_message(message)
    except MessageError:
        return ()
    return (socket.inet_ntoa(each[-4:]) for each in found.addresses) if found else ()

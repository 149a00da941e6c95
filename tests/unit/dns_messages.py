# SPDX-License-Identifier: Apache-2.0
"""DNS messages and TLS ClientHellos for tests; dnspython writes the messages."""

import contextlib
import ssl

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from podtally.kernel.captured import UDP, Captured

POD, OTHER_POD = 7, 8
LOCAL = b"\0" * 10 + b"\xff\xff" + bytes((10, 99, 0, 5))
RESOLVER = b"\0" * 10 + b"\xff\xff" + bytes((10, 99, 0, 53))
SECOND_NS = 1_000_000_000


def mapped(text: str) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + bytes(map(int, text.split(".")))


def query(name: str, kind: str = "A", number: int = 4711) -> dns.message.Message:
    asked = dns.message.make_query(name, kind)
    asked.id = number
    return asked


def response(asked: dns.message.Message, *records: str) -> dns.message.Message:
    """Answer a query; records are lines as in a zone file: owner TTL IN TYPE data."""
    made = dns.message.make_response(asked)
    for line in records:
        owner, ttl, group, kind, data = line.split(None, 4)
        made.answer.append(dns.rrset.from_text(owner, int(ttl), group, kind, data))
    return made


def sent(
    message: dns.message.Message | bytes, at_ns: int = SECOND_NS, **changes: object
) -> Captured:
    """Return a query as the pod's interface shows it."""
    data = message if isinstance(message, bytes) else message.to_wire()
    captured = Captured(POD, at_ns, LOCAL, RESOLVER, 40000, 53, UDP, True, 0, False, data)
    return captured._replace(fine_ns=at_ns, **changes)  # type: ignore[arg-type]


def received(
    message: dns.message.Message | bytes, at_ns: int = SECOND_NS + 1_000_000, **changes: object
) -> Captured:
    return sent(message, at_ns, **{"is_sent": False, **changes})


def client_hello(name: str | None, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """Return the first bytes that OpenSSL sends to a server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = oldest
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()

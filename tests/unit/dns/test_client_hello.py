# SPDX-License-Identifier: Apache-2.0
"""Server names in TLS ClientHellos: real ones of OpenSSL, and damaged ones."""

import contextlib
import random
import ssl

import pytest

from podtally.dns.client_hello import NoHelloError, ServerName, parse_hello
from tests.unit.dns_messages import client_hello

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.mark.parametrize("oldest", VERSIONS)
def test_the_name_that_openssl_sends(oldest: ssl.TLSVersion) -> None:
    assert parse_hello(client_hello("Api.Example.com", oldest)) == ServerName("api.example.com")


def test_a_client_that_names_no_server() -> None:
    assert parse_hello(client_hello(None)) == ServerName("")


def test_every_prefix_is_incomplete() -> None:
    hello = client_hello("api.example.com")
    assert [parse_hello(hello[:n]) for n in range(len(hello))] == [None] * len(hello)


def with_extension(hello: bytes, kind: int, data: bytes) -> bytes:
    """Return a ClientHello with one more extension."""
    extension = kind.to_bytes(2) + len(data).to_bytes(2) + data
    body = bytearray(hello[9:])
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    body[at : at + 2] = (int.from_bytes(body[at : at + 2]) + len(extension)).to_bytes(2)
    body += extension
    return (
        b"\x16\x03\x01"
        + (len(body) + 4).to_bytes(2)
        + b"\x01"
        + len(body).to_bytes(3)
        + bytes(body)
    )


def test_a_post_quantum_key_share_fits() -> None:
    hello = with_extension(client_hello("pq.example.com"), 51, bytes(1220))
    assert len(hello) > 1500
    assert parse_hello(hello[:1400]) is None
    assert parse_hello(hello) == ServerName("pq.example.com")


def test_an_encrypted_hello_shows_the_outer_name() -> None:
    hello = with_extension(client_hello("outer.example.com"), 0xFE0D, b"\0" + bytes(200))
    assert parse_hello(hello) == ServerName("outer.example.com", is_outer=True)


def test_a_hello_in_two_records() -> None:
    hello = client_hello("api.example.com")
    body = hello[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in (body[:50], body[50:])
    )
    assert parse_hello(records) == ServerName("api.example.com")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x17\x03\x03\0\x05hello",
        b"\x16\x03\x01\0\x04\x02\0\0\0",
        b"\x16\x03\x01\xff\xff\x01",
    ],
)
def test_what_is_not_a_hello(data: bytes) -> None:
    with pytest.raises(NoHelloError):
        parse_hello(data)


def test_damaged_hellos_raise_nothing_else() -> None:
    random_, hello = random.Random(23), client_hello("api.example.com")
    for _ in range(5000):
        damaged = bytearray(hello)
        for _ in range(random_.randrange(1, 6)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        with contextlib.suppress(NoHelloError):
            parse_hello(bytes(damaged))

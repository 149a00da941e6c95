# SPDX-License-Identifier: Apache-2.0
"""Reads the server name of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3)."""

from typing import NamedTuple

MAX_HELLO = 16384 + 4  # a record's limit; post-quantum keys make some 1,800 bytes
_HANDSHAKE, _CLIENT_HELLO = 0x16, 1
_SERVER_NAME, _ENCRYPTED_HELLO = 0, 0xFE0D  # RFC 9849: the name is the outer one


class ServerName(NamedTuple):
    name: str  # lower case, without a trailing dot; "" if the client names no server
    is_outer: bool = False  # the real name is encrypted


class NoHelloError(ValueError):
    """The bytes are no ClientHello."""


def parse_hello(data: bytes) -> ServerName | None:
    """Return the server name of the ClientHello that ``data`` begins with.

    None if it is not complete yet; NoHelloError if it is none.
    """
    hello = _handshake(data)
    if hello is None:
        return None
    try:
        offset = 34  # version, random
        offset += 1 + hello[offset]  # session
        offset += 2 + _number(hello, offset)  # cipher suites
        offset += 1 + hello[offset]  # compression
        if offset == len(hello):
            return ServerName("")
        end = offset + 2 + _number(hello, offset)
        offset += 2
        if end > len(hello):
            raise NoHelloError("extensions end outside the message")
        return _extensions(hello, offset, end)
    except IndexError:
        raise NoHelloError("a field ends outside the message") from None


def _handshake(data: bytes) -> bytes | None:
    """Return the ClientHello's body, put together from its records; None if bytes are missing."""
    body, offset, wanted = b"", 0, 4
    while True:
        if len(data) < offset + 5:
            if data and data[0] != _HANDSHAKE:
                raise NoHelloError("no handshake record")
            return None
        if data[offset] != _HANDSHAKE or data[offset + 1] != 3:
            raise NoHelloError("no handshake record")
        size = _number(data, offset + 3)
        if not size or size > MAX_HELLO:
            raise NoHelloError("a record of an impossible size")
        body += data[offset + 5 : offset + 5 + size]
        if body and body[0] != _CLIENT_HELLO:
            raise NoHelloError("no ClientHello")
        if len(body) >= 4:
            wanted = 4 + int.from_bytes(body[1:4])
            if wanted > MAX_HELLO:
                raise NoHelloError("a ClientHello of an impossible size")
        if len(body) >= wanted:
            return body[4:wanted]
        offset += 5 + size
        if offset > len(data):
            return None


def _extensions(hello: bytes, offset: int, end: int) -> ServerName:
    name, is_outer = "", False
    while offset + 4 <= end:
        kind, size = _number(hello, offset), _number(hello, offset + 2)
        offset += 4
        if offset + size > end:
            raise NoHelloError("an extension ends outside the message")
        if kind == _SERVER_NAME and size >= 5 and not hello[offset + 2]:
            length = _number(hello, offset + 3)
            if length > size - 5:
                raise NoHelloError("the server name ends outside its extension")
            name = _host_name(hello[offset + 5 : offset + 5 + length])
        elif kind == _ENCRYPTED_HELLO and size and not hello[offset]:  # type "outer"
            is_outer = size > 40  # shorter ones are GREASE without a payload
        offset += size
    return ServerName(name, is_outer)


def _host_name(raw: bytes) -> str:
    text = raw.decode("ascii", "replace").lower().rstrip(".")
    if len(text) > 253 or not text or not all(c.isalnum() or c in "-_." for c in text):
        return ""
    return text


def _number(data: bytes, offset: int) -> int:
    return data[offset] << 8 | data[offset + 1]

# SPDX-License-Identifier: Apache-2.0
"""Parses DNS messages: questions, and the addresses that answer them.

Everything is bounded by the message's size. A message that ends early (the capture cuts
long ones) counts as far as its records are complete.
"""

import struct
from typing import NamedTuple

from podtally.dns.wire_names import MessageError, name_text, read_labels

A, CNAME, AAAA, DNAME, SVCB, HTTPS = 1, 5, 28, 39, 64, 65
NO_ERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
MAX_RECORDS = 512  # of an answer; a message of 64 KiB has room for 4,000
MAX_LABELS = 1024  # read for owners and aliases of one answer: bounds the time it takes
MAX_CHAIN = 16  # aliases; resolvers give up at about as many
MAX_HINTS = 1024  # bytes of address hints of one parameter
MAX_TTL = 7 * 86400  # seconds; longer ones are cut, as resolvers do (RFC 8767 4)
_HEADER = struct.Struct(">6H")
_QUESTION = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_IN = 1
_MAPPED = b"\0" * 10 + b"\xff\xff"
_IPV4_HINT, _IPV6_HINT = 4, 6  # RFC 9460 14.3.2

Labels = tuple[bytes, ...]

TYPES = {
    **{1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA"},
    **{33: "SRV", 35: "NAPTR", 43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 255: "ANY"},
}
RCODES = {
    **{0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"},
}
OTHER = "other"


class Message(NamedTuple):
    """A query, or a response with the addresses of the queried name."""

    id: int
    is_response: bool
    is_truncated: bool  # TC: the client asks again over TCP
    rcode: int
    labels: Labels  # of the question
    type: int
    addresses: tuple[bytes, ...] = ()  # 16 bytes each
    ttl: int = 0  # seconds, the lowest of the chain
    chain: tuple[Labels, ...] = ()  # aliases behind the queried name, in order
    is_cut: bool = False  # records are missing at the end

    @property
    def is_hint(self) -> bool:
        """Return whether the addresses are no answer to a question for addresses."""
        return self.type not in (A, AAAA)

    @property
    def name(self) -> str:
        return name_text(self.labels)


def parse_message(data: bytes) -> Message | None:
    """Return a message; None if it is of another kind (notify, update, several questions).

    MessageError if the header or the question cannot be parsed.
    """
    if len(data) < _HEADER.size:
        raise MessageError("shorter than a header")
    number, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if flags & 0x7800 or questions != 1:  # opcode QUERY; RFC 9619: one question
        return None
    labels, offset = read_labels(data, 12)
    if offset + 4 > len(data):
        raise MessageError("the question ends outside the message")
    kind, group = _QUESTION.unpack_from(data, offset)
    if group != _IN:
        return None
    is_response = bool(flags & 0x8000)
    asked = Message(number, is_response, bool(flags & 0x0200), flags & 15, labels, kind)
    if not is_response or not answers or asked.rcode:
        return asked
    return _answered(asked, data, offset + 4, answers)


class _Sections:
    """The records of an answer that may lead to an address, by owner."""

    def __init__(self, asked: int) -> None:
        self._asked = asked
        self.aliases: dict[Labels, tuple[Labels, int]] = {}
        self.subtrees: dict[Labels, tuple[Labels, int]] = {}
        self.addresses: dict[Labels, list[tuple[bytes, int]]] = {}
        self.work = 0  # labels read, and addresses

    def add(self, owner: Labels, kind: int, ttl: int, data: bytes, span: tuple[int, int]) -> None:
        """Add the record with the data ``data[span[0]:span[1]]`` of the message."""
        start, end = span
        if kind == A:
            if end - start == 4:
                self._add_address(owner, _MAPPED + data[start:end], ttl)
        elif kind == AAAA:
            if end - start == 16:
                self._add_address(owner, data[start:end], ttl)
        elif kind == CNAME:
            self.aliases.setdefault(owner, (self._target(data, start, end), ttl))
        elif kind == DNAME:
            self.subtrees.setdefault(owner, (self._target(data, start, end), ttl))
        elif kind in (HTTPS, SVCB) and kind == self._asked:
            self._add_service(owner, ttl, data, span)

    def _add_address(self, owner: Labels, address: bytes, ttl: int) -> None:
        self.work += 1
        self.addresses.setdefault(owner, []).append((address, ttl))

    def _target(self, data: bytes, start: int, end: int) -> Labels:
        labels, behind = read_labels(data, start)
        self.work += len(labels)
        if behind != end:
            raise MessageError("an alias of another length than its record")
        return labels

    def _add_service(self, owner: Labels, ttl: int, data: bytes, span: tuple[int, int]) -> None:
        """Add the address hints of a service record, RFC 9460 2.2; or its alias."""
        start, end = span
        target, offset = read_labels(data, start + 2)
        if not int.from_bytes(data[start : start + 2]):  # AliasMode
            self.aliases.setdefault(owner, (target, ttl))
            return
        self.work += len(target)
        while offset + 4 <= end and self.work < MAX_LABELS:
            self.work += 1
            key, size = _QUESTION.unpack_from(data, offset)
            value = data[offset + 4 : min(offset + 4 + size, end)]
            if key == _IPV4_HINT:
                for at in range(0, min(len(value), MAX_HINTS) - 3, 4):
                    self._add_address(owner, _MAPPED + value[at : at + 4], ttl)
            elif key == _IPV6_HINT:
                for at in range(0, min(len(value), MAX_HINTS) - 15, 16):
                    self._add_address(owner, value[at : at + 16], ttl)
            offset += 4 + size

    def next(self, name: Labels) -> tuple[Labels, int] | None:
        """Return what a name is an alias of, and the record's TTL."""
        found = self.aliases.get(name)
        if found is not None or not self.subtrees:
            return found
        for at in range(1, len(name)):  # RFC 6672 2.2: strictly below the owner
            subtree = self.subtrees.get(name[at:])
            if subtree is not None:
                return name[:at] + subtree[0], subtree[1]
        return None


def _answered(asked: Message, data: bytes, offset: int, answers: int) -> Message:
    found, is_cut, size = _Sections(asked.type), answers > MAX_RECORDS, len(data)
    owners: dict[bytes, Labels] = {b"\xc0\x0c": asked.labels}  # by pointer: nearly all are
    for _ in range(min(answers, MAX_RECORDS)):
        if found.work >= MAX_LABELS:
            is_cut = True
            break
        pointer = data[offset : offset + 2]
        owner = owners.get(pointer)
        try:
            if owner is None:
                owner, behind = read_labels(data, offset)
                found.work += len(owner)
                if behind == offset + 2:
                    owners[pointer] = owner
                offset = behind
            else:
                offset += 2
            if offset + 10 > size:
                is_cut = True
                break
            kind, group, ttl, length = _RECORD.unpack_from(data, offset)
            start, offset = offset + 10, offset + 10 + length
            if offset > size:
                is_cut = True
                break
            if group == _IN:
                # A TTL with the top bit set is 0: RFC 2181 8
                ttl = 0 if ttl >> 31 else min(ttl, MAX_TTL)
                found.add(owner, kind, ttl, data, (start, offset))
        except MessageError:
            is_cut = True
            break
    return _resolved(asked._replace(is_cut=is_cut), found)


def _resolved(asked: Message, found: _Sections) -> Message:
    """Follow the chain from the queried name."""
    name, chain, ttl = asked.labels, [], MAX_TTL
    while (step := found.next(name)) is not None:
        name, ttl = step[0], min(ttl, step[1])
        chain.append(name)
        if len(chain) > MAX_CHAIN:
            return asked
    records = found.addresses.get(name)
    if not records:
        return asked
    return asked._replace(
        addresses=tuple(dict.fromkeys(address for address, _ in records)),
        ttl=min(ttl, *(each for _, each in records)),
        chain=tuple(chain),
    )


def type_name(number: int) -> str:
    return TYPES.get(number, OTHER)


def rcode_name(number: int) -> str:
    return RCODES.get(number, OTHER)

# SPDX-License-Identifier: Apache-2.0
"""Domain names as in DNS messages (RFC 1035 3.1, 4.1.4), and as people write them."""

import re

MAX_NAME = 255  # bytes on the wire, RFC 1035 2.3.4
MAX_JUMPS = 4  # from pointer to pointer, without a label between: bounds the time of a name
_POINTER = 0xC0
_DOT = ord(".")
_PLAIN = re.compile(rb"[a-z0-9_-]+\Z")


class MessageError(ValueError):
    """A message, or a part of it, that cannot be parsed; the text says why."""


def read_labels(data: bytes, offset: int) -> tuple[tuple[bytes, ...], int]:
    """Return the labels of the name at ``offset``, in lower case, and where it ends.

    A pointer must point before the name's part that it ends, so no loop is possible.
    """
    labels: list[bytes] = []
    behind, limit, size, jumps = -1, offset, 0, 0
    try:
        while length := data[offset]:
            if length >= _POINTER:
                target = (length & 0x3F) << 8 | data[offset + 1]
                if behind < 0:
                    behind = offset + 2
                if target >= limit:
                    raise MessageError("a name points forwards")
                jumps += 1
                if jumps > MAX_JUMPS:
                    raise MessageError("a name of pointers to pointers")
                limit = offset = target
                continue
            if length > 63:
                raise MessageError("a label of an unknown kind")
            jumps = 0
            size += length + 1
            if size >= MAX_NAME:
                raise MessageError("a name of more than 255 bytes")
            label = data[offset + 1 : offset + 1 + length]
            if len(label) < length:
                raise MessageError("a name ends outside the message")
            labels.append(label.lower())
            offset += 1 + length
    except IndexError:
        raise MessageError("a name ends outside the message") from None
    return tuple(labels), offset + 1 if behind < 0 else behind


def name_text(labels: tuple[bytes, ...]) -> str:
    """Return a name without a trailing dot; unusual bytes are escaped as in RFC 1035 5.1.

    A dot in a label becomes a number, so that every dot of the text ends a label.
    """
    if all(map(_PLAIN.match, labels)):
        return b".".join(labels).decode("ascii")
    return ".".join(map(_escaped, labels))


def _escaped(label: bytes) -> str:
    return "".join(
        chr(each)
        if _PLAIN.match(bytes((each,))) or each in b"*/+=~"
        else f"\\{chr(each)}"
        if 0x20 < each < 0x7F and each != _DOT
        else f"\\{each:03d}"
        for each in label
    )


def display_name(name: str) -> str:
    """Return a name with its Unicode form in parentheses if it has one (RFC 3492)."""
    if "xn--" not in name:
        return name
    labels = []
    for label in name.split("."):
        plain = label
        if label.startswith("xn--"):
            try:
                plain = label[4:].encode("ascii").decode("punycode")
            except UnicodeError:
                plain = label
        labels.append(plain if plain and plain.isprintable() else label)
    shown = ".".join(labels)
    return name if shown == name else f"{name} ({shown})"

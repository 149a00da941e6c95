# SPDX-License-Identifier: Apache-2.0
"""Reads a small, strict part of C: the constants and structs of ``bpf/flow.h``.

Needs nothing but the standard library: the builder runs where the agent's libraries are not.
"""

import re
from typing import NamedTuple

SIZES = {"__u8": 1, "__u16": 2, "__u32": 4, "__u64": 8}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(\d+)[ \t]*$", re.MULTILINE)
_STRUCT = re.compile(r"struct (\w+) \{(.*?)\};", re.DOTALL)
_FIELD = re.compile(r"(__u\d+) (\w+)(?:\[(\d+)\])?")


class LayoutError(Exception):
    """The header says something that Python and the kernel could read differently."""


class Field(NamedTuple):
    name: str
    scalar: str
    length: int | None  # of an array

    @property
    def size(self) -> int:
        return SIZES[self.scalar] * (1 if self.length is None else self.length)


def read_constants(header: str) -> dict[str, int]:
    return {name: int(value) for name, value in _DEFINE.findall(_COMMENT.sub("", header))}


def read_structs(header: str) -> dict[str, list[Field]]:
    return {name: _fields(name, body) for name, body in _STRUCT.findall(_COMMENT.sub("", header))}


def _fields(struct: str, body: str) -> list[Field]:
    fields = []
    for line in filter(None, map(str.strip, body.split(";"))):
        match = _FIELD.fullmatch(line)
        if match is None or match[1] not in SIZES:
            raise LayoutError(f"struct {struct}: cannot read {line!r}")
        scalar, name, length = match.groups()
        fields.append(Field(name, scalar, int(length) if length else None))
    return fields


def assertions(header: str) -> str:
    """Return C that does not compile unless the structs lie as they are read here."""
    lines = ["#include <linux/stddef.h>"]
    for struct, fields in read_structs(header).items():
        offset = 0
        for name, _, _ in fields:
            at = f"__builtin_offsetof(struct {struct}, {name})"
            lines.append(_assertion(f"{at} == {offset}", f"{struct}.{name} is elsewhere"))
            offset += next(each.size for each in fields if each.name == name)
        lines.append(_assertion(f"sizeof(struct {struct}) == {offset}", f"{struct} has a hole"))
    return "\n".join(lines) + "\n"


def _assertion(condition: str, complaint: str) -> str:
    return f'_Static_assert({condition}, "flow.h: {complaint}");'

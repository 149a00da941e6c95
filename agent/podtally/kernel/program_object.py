# SPDX-License-Identifier: Apache-2.0
"""The object file: kernel programs as they are shipped, compiled but without their maps.

``bpf/object.h`` declares what is in it, ``kernel/builder`` makes it, ``kernel/loader`` loads it.
It is JSON, and the same for all little-endian machines.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from podtally.errors import PodtallyError
from podtally.kernel.sources import BPF_DIR, OBJECT, sources_digest

FORMAT = 1
_FIX = "build them with scripts/build-programs (it needs bcc), or install a wheel"

Where = Literal["map", "value", "whole", "low", "high"]


class Relocation(msgspec.Struct, frozen=True):
    """What an instruction gets when it is loaded: a map, its value, or (half of) a parameter."""

    at: int  # index of the instruction
    kind: Where
    name: str


class ObjectMap(msgspec.Struct, frozen=True):
    """A map to create; names of parameters stand for their values."""

    name: str
    type: int  # enum bpf_map_type
    key_size: int
    value_size: int
    entries: int | str
    flags: int | str
    inner: str = ""  # of a map of maps: the map that shows what its elements are like


class ObjectProgram(msgspec.Struct, frozen=True):
    """A program to load."""

    name: str
    type: int  # enum bpf_prog_type
    optional: bool  # a kernel that refuses it goes without
    instructions: str  # hexadecimal: struct bpf_insn, little-endian
    relocations: tuple[Relocation, ...]

    @property
    def code(self) -> bytes:
        return bytes.fromhex(self.instructions)


class ProgramObject(msgspec.Struct, frozen=True):
    """Everything that is compiled from one C file."""

    format: int
    source: str  # the file's name
    digest: str  # of the sources
    compiler: str
    header: str  # the text of flow.h; empty if the source has none beside it
    parameters: tuple[str, ...]
    maps: tuple[ObjectMap, ...]
    programs: tuple[ObjectProgram, ...]


def decode(raw: bytes, what: str) -> ProgramObject:
    """Read an object file; PodtallyError if it is another format, or damaged."""
    try:
        found = msgspec.json.decode(raw, type=ProgramObject)
    except msgspec.MsgspecError as error:
        raise PodtallyError(f"{what} is no object file of kernel programs: {error}", _FIX) from None
    if found.format != FORMAT:
        raise PodtallyError(f"{what} has format {found.format}, not {FORMAT}", _FIX)
    return found


@cache
def shipped(directory: Path = BPF_DIR) -> ProgramObject:
    """Return the programs that this installation brings along; PodtallyError if it has none."""
    path = directory / OBJECT
    try:
        found = decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise PodtallyError(f"the kernel programs are not built: no {path}", _FIX) from None
    if found.digest != sources_digest(directory):
        raise PodtallyError(f"{path} was built from other sources than those beside it", _FIX)
    return found

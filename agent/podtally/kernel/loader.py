# SPDX-License-Identifier: Apache-2.0
"""Loads an object file into the kernel: creates its maps, fills in what it leaves open, pins.

Nothing is compiled here. What the verifier refuses is loaded once more, for its log.
"""

import logging
import os
import shutil
import struct
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from podtally.kernel import bpf
from podtally.kernel.header_text import LayoutError
from podtally.kernel.load_error import load_error
from podtally.kernel.pins import About, write_about
from podtally.kernel.prog_load import RefusedError, prog_load
from podtally.kernel.program_object import ObjectMap, ObjectProgram, ProgramObject, Relocation

log = logging.getLogger(__name__)

_INSTRUCTION_SIZE = 8  # bytes: code, registers, offset, constant
_PSEUDO_MAP_FD = 1  # BPF_PSEUDO_MAP_FD, in the source register
_WIDE = 0x18  # BPF_LD | BPF_IMM | BPF_DW: a constant in two instructions
_MOST = 1 << 31  # a constant of one instruction is sign-extended


class LoadJob(msgspec.Struct, frozen=True):
    """Load an object with ``parameters``, and pin its programs and maps into ``into``."""

    object: ProgramObject
    parameters: dict[str, int]
    into: str  # a directory on a bpffs, which is made: progs/ and maps/ in it
    about: About | None = None  # given: pinned last


def load(job: LoadJob, keep: Path | None = None) -> tuple[str, ...]:
    """Carry out a job; return the optional programs that this kernel refuses.

    Raises PodtallyError, and nothing stays pinned then. The verifier's log goes to ``keep``.
    """
    into = Path(job.into)
    _discard(into)
    source = job.object.source
    try:
        _check(job)
        with ExitStack() as opened:
            return _load(job, into, opened)
    except RefusedError as error:
        _discard(into)
        built = f"{source} was compiled by {job.object.compiler}\n{error.log}\n"
        raise load_error(source, f"{built if error.log else ''}{error}", keep) from None
    except (OSError, LayoutError) as error:
        _discard(into)
        raise load_error(source, str(error), keep) from None
    except BaseException:
        _discard(into)
        raise


def _load(job: LoadJob, into: Path, opened: ExitStack) -> tuple[str, ...]:
    for directory in (into / "progs", into / "maps"):
        directory.mkdir(parents=True, mode=0o700)
    maps: dict[str, int] = {}
    for each in sorted(job.object.maps, key=lambda each: bool(each.inner)):
        maps[each.name] = _create_map(each, job.parameters, maps)
        opened.callback(os.close, maps[each.name])
    refused = []
    for program in job.object.programs:
        code = relocated(program, job.parameters, maps)
        try:
            fd = prog_load(program.type, program.name, code)
        except RefusedError as error:
            if not program.optional:
                raise
            log.info("%s; the agent does without it", error)
            refused.append(program.name)
            continue
        with bpf.owned(fd):
            bpf.obj_pin(fd, into / "progs" / program.name)
    for name, fd in maps.items():
        bpf.obj_pin(fd, into / "maps" / name)
    if job.about is not None:
        about = msgspec.structs.replace(
            job.about,
            maps=tuple(maps),
            programs=tuple(each.name for each in job.object.programs if each.name not in refused),
        )
        write_about(into / "maps" / "about", about)
    return tuple(refused)


def relocated(program: ObjectProgram, parameters: dict[str, int], maps: dict[str, int]) -> bytes:
    """The instructions with descriptors and parameters in their places."""
    code = bytearray(program.code)
    for each in program.relocations:
        value = maps[each.name] if each.kind == "map" else parameters[each.name]
        _relocate(code, each, value)
    return bytes(code)


def _relocate(code: bytearray, relocation: Relocation, value: int) -> None:
    at = relocation.at * _INSTRUCTION_SIZE
    if relocation.kind in ("low", "high"):
        half = value >> 32 if relocation.kind == "high" else value & 0xFFFFFFFF
        struct.pack_into("=I", code, at + 4, half)
    elif code[at] == _WIDE:
        if relocation.kind == "map":
            code[at + 1] |= _PSEUDO_MAP_FD << 4
        struct.pack_into("=I", code, at + 4, value & 0xFFFFFFFF)
        struct.pack_into("=I", code, at + 4 + _INSTRUCTION_SIZE, value >> 32)
    elif value >= _MOST:
        raise OSError(f"the parameter {relocation.name} is {value}, and must be below {_MOST}")
    else:
        struct.pack_into("=I", code, at + 4, value)


def _create_map(spec: ObjectMap, parameters: dict[str, int], maps: dict[str, int]) -> int:
    try:
        return bpf.map_create(
            bpf.MapSpec(
                type=spec.type,
                key_size=spec.key_size,
                value_size=spec.value_size,
                entries=_number(spec.entries, parameters),
                flags=_number(spec.flags, parameters),
                inner_fd=maps[spec.inner] if spec.inner else 0,
                name=spec.name,
            )
        )
    except OSError as error:
        raise OSError(error.errno, f"cannot create the map {spec.name}: {error.strerror}") from None


def _number(value: int | str, parameters: dict[str, int]) -> int:
    return parameters[value] if isinstance(value, str) else value


def _check(job: LoadJob) -> None:
    """Compare the sizes that the compiler laid out with what ``abi`` reads from the header."""
    missing = set(job.object.parameters) - set(job.parameters)
    if missing:
        raise LayoutError(f"parameters without a value: {', '.join(sorted(missing))}")
    if job.about is None:
        return
    layout = job.about.layout
    block = np.dtype([("slots", layout.hot, (layout.block_slots,))])
    values = {"control": layout.control, "hot": block, "cold": layout.cold, "books": layout.book}
    if layout.lane is not None:
        values["lanes"] = layout.lane
    if layout.handshake is not None:
        values["handshakes"] = layout.handshake
    for each in job.object.maps:
        if each.name in values and each.value_size != values[each.name].itemsize:
            size = values[each.name].itemsize
            raise LayoutError(
                f"map {each.name}: its values have {each.value_size} bytes, flow.h says {size}"
            )


def _discard(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)

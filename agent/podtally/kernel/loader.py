# SPDX-License-Identifier: Apache-2.0
"""Loads an object file into the kernel: creates its maps, fills in what it leaves open, pins.

Nothing is compiled here. What the verifier refuses is loaded once more, for its log.
"""

import logging
import os
import shutil
import struct
import threading
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
_PSEUDO_MAP = {"map": 1, "value": 2}  # BPF_PSEUDO_MAP_FD and _VALUE, in the source register
_WIDE = 0x18  # BPF_LD | BPF_IMM | BPF_DW: a constant in two instructions
_MOST = 1 << 31  # a constant of one instruction is sign-extended


class LoadJob(msgspec.Struct, frozen=True):
    """Load an object with ``parameters``, and pin its programs and maps into ``into``."""

    object: ProgramObject
    parameters: dict[str, int]
    into: str  # a directory on a bpffs, which is made: progs/ and maps/ in it
    about: About | None = None  # given: pinned last


class Loaded:
    """Maps and programs in the kernel, held by descriptors; gone with them unless pinned."""

    def __init__(self, job: LoadJob) -> None:
        """Load; OSError, RefusedError or LayoutError."""
        self.job = job
        self.maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        self.refused: tuple[str, ...] = ()
        _check(job)
        try:
            for each in sorted(job.object.maps, key=lambda each: bool(each.inner)):
                self._create(each, _required_maps(job.object))
            self._load_programs()
        except BaseException:
            self.close()
            raise

    def _create(self, spec: ObjectMap, required: set[str]) -> None:
        try:
            self.maps[spec.name] = _create_map(spec, self.job.parameters, self.maps)
        except OSError as error:
            if spec.name in required:
                raise
            log.info("%s; the agent does without it", error.strerror)

    def _load_programs(self) -> None:
        """Load all at once: the verifier takes a tenth of a second for each."""
        programs = self.job.object.programs
        able = [each for each in programs if _maps_of(each) <= set(self.maps)]
        loads = [_Load(each, self.job.parameters, self.maps) for each in able]
        for load in loads:
            load.join()
        self.programs = {load.program.name: load.fd for load in loads if load.fd is not None}
        errors = [load for load in loads if load.error is not None]
        for load in errors:
            if not load.program.optional or not isinstance(load.error, RefusedError):
                assert load.error is not None
                raise load.error
            log.info("%s; the agent does without it", load.error)
        self.refused = tuple(each.name for each in programs if each.name not in self.programs)

    def pin(self, follows: str = "") -> None:
        """Pin everything under the job's directory; ``follows`` as in ``About``. OSError."""
        into = Path(self.job.into)
        for directory in (into / "progs", into / "maps"):
            directory.mkdir(parents=True, mode=0o700)
        for name, fd in self.programs.items():
            bpf.obj_pin(fd, into / "progs" / name)
        for name, fd in self.maps.items():
            bpf.obj_pin(fd, into / "maps" / name)
        if self.job.about is not None:
            about = msgspec.structs.replace(
                self.job.about,
                maps=tuple(self.maps),
                programs=tuple(self.programs),
                follows=follows or self.job.about.follows,
            )
            write_about(into / "maps" / "about", about)

    def close(self) -> None:
        for fd in (*self.maps.values(), *self.programs.values()):
            os.close(fd)
        self.maps, self.programs = {}, {}


class _Load(threading.Thread):
    def __init__(
        self, program: ObjectProgram, parameters: dict[str, int], maps: dict[str, int]
    ) -> None:
        super().__init__(name=f"load {program.name}", daemon=True)
        self.program, self._code = program, relocated(program, parameters, maps)
        self.fd: int | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.fd = prog_load(self.program.type, self.program.name, self._code)
        except Exception as error:
            self.error = error


def load(job: LoadJob, keep: Path | None = None) -> tuple[str, ...]:
    """Load and pin; return the optional programs that this kernel refuses.

    Raises PodtallyError, and nothing stays pinned then. The verifier's log goes to ``keep``.
    """
    source = job.object.source
    try:
        loaded = Loaded(job)
    except RefusedError as error:
        built = f"{source} was compiled by {job.object.compiler}\n{error.log}\n"
        raise load_error(source, f"{built if error.log else ''}{error}", keep) from None
    except (OSError, LayoutError) as error:
        raise load_error(source, str(error), keep) from None
    try:
        pin(loaded)
    finally:
        loaded.close()
    return loaded.refused


def pin(loaded: Loaded, follows: str = "") -> None:
    """Pin in the place of what a loader before may have left; PodtallyError, and nothing stays."""
    into = Path(loaded.job.into)
    _discard(into)
    try:
        loaded.pin(follows)
    except OSError as error:
        _discard(into)
        raise load_error(loaded.job.object.source, str(error)) from None
    except BaseException:
        _discard(into)
        raise


def _maps_of(program: ObjectProgram) -> set[str]:
    return {each.name for each in program.relocations if each.kind in _PSEUDO_MAP}


def _required_maps(object_: ProgramObject) -> set[str]:
    """Return the maps that no kernel may lack: all but those of optional programs only."""
    optional = set().union(*(_maps_of(each) for each in object_.programs if each.optional))
    others = set().union(*(_maps_of(each) for each in object_.programs if not each.optional))
    return {each.name for each in object_.maps} - (optional - others)


def relocated(program: ObjectProgram, parameters: dict[str, int], maps: dict[str, int]) -> bytes:
    """The instructions with descriptors and parameters in their places."""
    code = bytearray(program.code)
    for each in program.relocations:
        value = maps[each.name] if each.kind in _PSEUDO_MAP else parameters[each.name]
        _relocate(code, each, value)
    return bytes(code)


def _relocate(code: bytearray, relocation: Relocation, value: int) -> None:
    at = relocation.at * _INSTRUCTION_SIZE
    if relocation.kind in ("low", "high"):
        half = value >> 32 if relocation.kind == "high" else value & 0xFFFFFFFF
        struct.pack_into("=I", code, at + 4, half)
    elif code[at] == _WIDE:
        code[at + 1] |= _PSEUDO_MAP.get(relocation.kind, 0) << 4
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
    if layout.bound is not None:
        values["bounds"] = layout.bound
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

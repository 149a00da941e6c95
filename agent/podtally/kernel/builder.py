# SPDX-License-Identifier: Apache-2.0
"""Compiles kernel programs with bcc into an object file: ``python -m podtally.kernel.builder``.

Needs neither rights nor the agent's libraries, but bcc (LLVM) and kernel headers. The only
importer of bcc: it takes well over 100 MB, so an agent with ``--compile`` runs this as a child.
What fails goes to standard error in the compiler's own words.
"""

import argparse
import ctypes
import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from podtally.kernel import headers
from podtally.kernel.header_text import assertions
from podtally.kernel.sources import BPF_DIR, HEADER, OBJECT, SOURCE, sources_digest

FORMAT = 1
_MAX_CPU_SECONDS = 120
DISTRIBUTION_PACKAGES = "/usr/lib/python3/dist-packages"  # where Debian and Ubuntu put bcc

# include/uapi/linux/bpf.h, and bpf/object.h
_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_64, _MOVE, _MOVE_32, _ADD, _AND, _SHIFT = 0x18, 0xB7, 0xB4, 0x07, 0x57, 0x67
_NARROW = {
    "whole": (_MOVE, _MOVE_32, _AND, _SHIFT),
    "low": (_ADD,),
    "high": (_ADD,),
}
_KINDS = ("map", "whole", "low", "high", "value")
_MARK = 0x6C79
_UPPER = 0x7074616C
_DESCRIBE = "describe_"
_VERSION = "describe_compiler_version"


class Instruction(NamedTuple):
    code: int
    registers: int
    offset: int
    constant: int


Names = dict[tuple[bool, int], str]  # by whether it is a map, and its number


def import_bcc() -> Any:
    try:
        import bcc
    except ModuleNotFoundError:
        sys.path.append(DISTRIBUTION_PACKAGES)
        import bcc
    return bcc


def build(source: Path) -> dict[str, object]:
    """Compile ``source``; return what ``kernel/program_object`` describes, as plain values."""
    functions = {name: _decoded(code) for name, code in _compiled(source)}
    described = {
        name.removeprefix(_DESCRIBE): _constants(code)
        for name, code in functions.items()
        if name.startswith(_DESCRIBE)
    }
    version = described.pop("compiler_version")
    names = {
        (kind == "map", values[0]): name
        for kind, name, values in _of_kinds(described, "map", "parameter")
    }
    header = source.parent / HEADER
    return {
        "format": FORMAT,
        "source": source.name,
        "digest": sources_digest(source.parent),
        "compiler": "clang " + ".".join(str(part) for part in version[:3]),
        "header": header.read_text() if header.is_file() else "",
        "parameters": [name for _, name, _ in _of_kinds(described, "parameter")],
        "maps": [_map(name, values, names) for _, name, values in _of_kinds(described, "map")],
        "programs": [
            _program(name, values, functions[name], names)
            for _, name, values in _of_kinds(described, "program")
        ],
    }


def _of_kinds(described: dict[str, list[int]], *kinds: str) -> Iterator[tuple[str, str, list[int]]]:
    for key, values in sorted(described.items()):
        kind, _, name = key.partition("_")
        if kind in kinds:
            yield kind, name, values


def _compiled(source: Path) -> Iterator[tuple[str, bytes]]:
    bcc = import_bcc()
    found = headers.find()
    if found is None:
        raise headers.missing()
    text = source.read_text() + _appendix(source.parent / HEADER)
    with headers.prepared(found) as environment:
        os.environ.update(environment)
        module = bcc.BPF(text=f'#line 1 "{source.name}"\n{text}'.encode(), cflags=_flags(source))
    lib = bcc.libbcc.lib
    for index in range(lib.bpf_num_functions(module.module)):
        name = lib.bpf_function_name(module.module, index)
        yield name.decode(), module.dump_func(name)


def _appendix(header: Path) -> str:
    """Return what only the builder needs: the compiler's version, and checks of the layout."""
    version = "DESCRIBE(compiler, version, __clang_major__, __clang_minor__, __clang_patchlevel__"
    lines = f'\n#include "object.h"\n{version}, 0, 0, 0, 0);\n'
    return lines + assertions(header.read_text()) if header.is_file() else lines


def _flags(source: Path) -> list[str]:
    # not -Werror: kernel headers have warnings that depend on the compiler's version; see packet.h
    return [f"-I{source.resolve().parent}", f"-I{BPF_DIR.resolve()}", "-Wall"]


def _decoded(code: bytes) -> list[Instruction]:
    return [Instruction(*fields) for fields in _INSTRUCTION.iter_unpack(code)]


def _constants(function: list[Instruction]) -> list[int]:
    """The values that DESCRIBE() put into a function, up to the value it returns."""
    return [each.constant for each in function if each.code in (_MOVE, _MOVE_32)][:7]


def _name(value: int, names: Names) -> int | str:
    """The name that a placeholder stands for, or the number itself."""
    if value >> 16 != _MARK:
        return value
    return names[_KINDS[value >> 12 & 0xF] == "map", value & 0xFFF]


def _map(name: str, values: list[int], names: Names) -> dict[str, object]:
    _, kind, key_size, value_size, entries, flags, inner = values
    return {
        "name": name,
        "type": kind,
        "key_size": key_size,
        "value_size": value_size,
        "entries": _name(entries, names),
        "flags": _name(flags, names),
        "inner": _name(inner, names) if inner else "",
    }


def _program(
    name: str, values: list[int], code: list[Instruction], names: Names
) -> dict[str, object]:
    return {
        "name": name,
        "type": values[1],
        "optional": bool(values[2]),
        "instructions": b"".join(_INSTRUCTION.pack(*each) for each in code).hex(),
        "relocations": list(_relocations(code, names)),
    }


def _relocations(code: list[Instruction], names: Names) -> Iterator[dict[str, object]]:
    is_upper_half = False
    for at, each in enumerate(code):
        wide = each.code == _LOAD_64
        if not is_upper_half and each.constant >> 16 == _MARK:
            kind = _KINDS[each.constant >> 12 & 0xF]
            if wide and code[at + 1].constant == _UPPER:
                expected = kind in ("map", "value", "whole")
            else:
                expected = each.code in _NARROW.get(kind, ())
            if not expected:
                raise ValueError(f"instruction {at} has a placeholder that cannot be replaced")
            is_map = kind in ("map", "value")
            yield {"at": at, "kind": kind, "name": names[is_map, each.constant & 0xFFF]}
        is_upper_half = wide and not is_upper_half


def die_with_parent(parent: int) -> None:
    """End with the process ``parent``, which may be gone before this call."""
    pr_set_pdeathsig, sigkill = 1, 9
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, sigkill)
    if os.getppid() != parent:
        sys.exit("the process that asked is gone")


def limit_cpu() -> None:
    """The time that compiling may take on a starved host is no time for what never ends."""
    with suppress(OSError, ValueError):  # a lower limit holds already, or limits are forbidden
        resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS + 1))


def write(built: dict[str, object], path: Path) -> None:
    """Replace the file ``path`` at once: a reader finds the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(built, indent=1) + "\n")
    beside.replace(path)


def is_current(directory: Path) -> bool:
    """Return whether the object file beside the sources was built from them."""
    try:
        found = json.loads((directory / OBJECT).read_text())
    except (OSError, ValueError):
        return False
    return (found.get("format"), found.get("digest")) == (FORMAT, sources_digest(directory))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=BPF_DIR / SOURCE)
    parser.add_argument(
        "--output", help="default: the file beside the sources; - is standard output"
    )
    parser.add_argument("--stale", action="store_true", help="build only if the sources changed")
    parser.add_argument("--parent", type=int, help="end with this process")
    args = parser.parse_args()
    if args.parent is not None:
        die_with_parent(args.parent)
    if args.stale and is_current(args.source.parent):
        return 0
    limit_cpu()
    try:
        built = build(args.source)
    except Exception as error:  # the last output of a process that reports nothing but its error
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if args.output == "-":
        json.dump(built, sys.stdout)
    else:
        write(built, Path(args.output) if args.output else args.source.parent / OBJECT)
    return 0


if __name__ == "__main__":
    sys.exit(main())

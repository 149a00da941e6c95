# SPDX-License-Identifier: Apache-2.0
"""The object file of the kernel programs: built, read, and made ready for a kernel."""

import shutil
import struct
from pathlib import Path

import msgspec
import pytest

from podtally.errors import PodtallyError
from podtally.kernel import builder, program_object
from podtally.kernel.abi import current
from podtally.kernel.flow_programs import compile_here, parameters_of
from podtally.kernel.loader import relocated
from podtally.kernel.pins import MAPS, PROGRAMS, SECRETS, Options
from podtally.kernel.program_object import ObjectProgram, ProgramObject, Relocation, decode, shipped
from podtally.kernel.sources import BPF_DIR, OBJECT

ODD = """\
#include <linux/bpf.h>
#include "object.h"

PARAMETER(room);

PROGRAM(odd, BPF_PROG_TYPE_SCHED_CLS);
int odd(struct __sk_buff *skb)
{
	return skb->len %s;
}
"""


@pytest.fixture(scope="module")
def built() -> ProgramObject:
    return shipped()


def instructions(program: ObjectProgram) -> list[bytes]:
    return [program.code[at : at + 8] for at in range(0, len(program.code), 8)]


@pytest.mark.slow
def test_what_is_shipped_is_what_is_compiled_here(built: ProgramObject) -> None:
    """Of the same compiler; another one's instructions may differ, and its objects load as well."""
    compiled = compile_here()
    assert built.digest == compiled.digest
    assert built.maps == compiled.maps
    assert built.parameters == compiled.parameters
    assert [each.name for each in built.programs] == [each.name for each in compiled.programs]
    if built.compiler != compiled.compiler:
        pytest.skip(f"built by {built.compiler}, here is {compiled.compiler}")
    for one, other in zip(built.programs, compiled.programs, strict=True):
        assert instructions(one) == instructions(other), one.name
        assert one.relocations == other.relocations, one.name
    assert built == compiled


def test_everything_is_there(built: ProgramObject) -> None:
    assert {each.name for each in built.maps} >= set(MAPS)
    assert {each.name for each in built.programs if not each.optional} >= set(PROGRAMS)
    options, words = Options(slots=4096, books=64), tuple(range(SECRETS))
    assert set(built.parameters) == set(parameters_of(options, words, current()))
    by_name = {each.name: each for each in built.maps}
    assert by_name["hot"].entries == "blocks"
    assert by_name["fence"].inner == "fence_inner"
    assert by_name["books"].value_size == current().book.itemsize


def test_no_placeholder_is_left(built: ProgramObject) -> None:
    maps = {each.name: 200 + i for i, each in enumerate(built.maps)}
    words = tuple(0xA0A0A0A0B0B0B0B0 + i for i in range(SECRETS))
    parameters = parameters_of(Options(slots=4096, books=64), words, current())
    for program in built.programs:
        code = relocated(program, parameters, maps)
        constants = [fields[3] for fields in struct.iter_unpack("<BBhi", code)]
        assert len(code) == len(program.code)
        assert {value >> 16 for value in constants} & {0x6C79, 0x7074} == set(), program.name
        for each in program.relocations:
            if each.kind == "map":
                assert constants[each.at : each.at + 2] == [maps[each.name], 0]
                assert code[each.at * 8 + 1] >> 4 == 1


@pytest.mark.parametrize(
    ("kind", "code", "value", "expected"),
    [
        ("whole", b"\x18\1\0\0\0\0\0\0" + bytes(8), 0x1122334455667788, (0x55667788, 0x11223344)),
        ("low", b"\x07\1\0\0\0\0\0\0", 0x1122334495667788, (0x95667788,)),
        ("high", b"\x07\1\0\0\0\0\0\0", 0x9122334455667788, (0x91223344,)),
        ("whole", b"\xb7\1\0\0\0\0\0\0", 0x7FFFFFFF, (0x7FFFFFFF,)),
    ],
)
def test_parameters_take_their_places(
    kind: program_object.Where, code: bytes, value: int, expected: tuple[int, ...]
) -> None:
    program = ObjectProgram("p", 3, False, code.hex(), (Relocation(0, kind, "room"),))
    done = relocated(program, {"room": value}, {})
    assert tuple(word[1] for word in struct.iter_unpack("<II", done)) == expected


def test_a_parameter_that_an_instruction_cannot_hold() -> None:
    program = ObjectProgram("p", 3, False, "b701000000000000", (Relocation(0, "whole", "room"),))
    with pytest.raises(OSError, match="parameter room is 2147483648"):
        relocated(program, {"room": 1 << 31}, {})


@pytest.mark.slow
def test_a_placeholder_that_the_compiler_computed_with(tmp_path: Path) -> None:
    source = tmp_path / "odd.c"
    source.write_text(ODD % "| SET_BY(room)")
    with pytest.raises(PodtallyError, match="placeholder that cannot be replaced"):
        compile_here(source)


@pytest.mark.slow
def test_the_compilers_words_come_through(tmp_path: Path) -> None:
    source = tmp_path / "odd.c"
    source.write_text(ODD % "+ nothing")
    with pytest.raises(PodtallyError, match=r"odd\.c:9:\d+: error: use of undeclared identifier"):
        compile_here(source)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [(b"", "no object file"), (b'{"format":1}', "no object file"), (None, "has format 2, not 1")],
)
def test_an_object_file_that_cannot_be_used(
    built: ProgramObject, raw: bytes | None, complaint: str
) -> None:
    if raw is None:
        raw = msgspec.json.encode(msgspec.structs.replace(built, format=2))
    with pytest.raises(PodtallyError, match=f"there .*{complaint}.*; .*build-programs"):
        decode(raw, "there")


def test_it_must_be_of_the_sources_beside_it(tmp_path: Path) -> None:
    copy = tmp_path / "bpf"
    shutil.copytree(BPF_DIR, copy)
    assert shipped(copy) == shipped()
    assert builder.is_current(copy)
    shipped.cache_clear()

    (copy / "flow.h").write_text((copy / "flow.h").read_text() + "\n")
    with pytest.raises(PodtallyError, match=r"other sources than those beside it.*build-programs"):
        shipped(copy)
    assert not builder.is_current(copy)

    (copy / OBJECT).unlink()
    with pytest.raises(PodtallyError, match="are not built"):
        shipped(copy)
    assert not builder.is_current(copy)

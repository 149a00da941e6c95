# SPDX-License-Identifier: Apache-2.0
"""podtally/kernel/{pins,job,loader}.py: what is pinned, changing generations, and refusing to load."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from podtally.errors import PodtallyError
from podtally.kernel import abi, bpf, piece_ring, pins, tracepoints
from podtally.kernel.flow_programs import compile_here, flow_job
from podtally.kernel.header_text import LayoutError
from podtally.kernel.loader import LoadJob, load
from podtally.kernel.pins import MAPS, PROGRAMS, About, Generation, Options, PinKeeper, Pins
from podtally.kernel.sources import BPF_DIR
from podtally.runtime.generations import settled
from tests.kernel.driver import Kernel
from tests.kernel.packets import TCP, ipv4, tcp

ALL_MAPS = (
    *(*MAPS, "bounds", "captures", "messages", "piece_buffers"),
    *("retransmits", "retransmit_lost", "retransmitters"),
)
TRACING = (*(each.program for each in tracepoints.RETRANSMITS), "retransmit_err")
ALL_PROGRAMS = (*PROGRAMS, *piece_ring.PROGRAMS, *TRACING)
TINY = Options(slots=128, books=4)


class StoppedError(Exception):
    """Stands for a kill -9 before a call that changes the pins."""


@pytest.fixture
def directory(pin_root: Path) -> Iterator[Path]:
    path = pin_root / "test"
    yield path
    if path.is_dir():
        shutil.rmtree(path)


@contextmanager
def opened(path: Path) -> Iterator[Pins]:
    pins = Pins(path)
    try:
        yield pins
    finally:
        pins.close()


def pin_copy(generation: Generation, root: Path, name: str) -> About:
    """Pin what a loader would, from what is loaded: the kernel objects are the same."""
    about = msgspec.structs.replace(generation.about, generation=name)
    for kind in ("progs", "maps"):
        (root / kind).mkdir(parents=True, mode=0o700)
    for program, fd in generation.program_fds().items():
        with bpf.owned(fd):
            bpf.obj_pin(fd, root / "progs" / program)
    for map_name in ALL_MAPS:
        with bpf.owned(generation.map_fd(map_name)) as fd:
            bpf.obj_pin(fd, root / "maps" / map_name)
    pins.write_about(root / "maps" / "about", about)
    return about


def changed_sources(into: Path, file: str, old: str, new: str) -> Path:
    shutil.copytree(BPF_DIR, into)
    text = (into / file).read_text()
    assert old in text
    (into / file).write_text(text.replace(old, new))
    return into / "podtally.c"


def job_for(source: Path, into: Path) -> LoadJob:
    return flow_job(TINY, into, compiled=compile_here(source))


def test_pins_are_where_the_contract_says(small: Kernel) -> None:
    root = small.generation.root

    assert {path.name for path in (root / "progs").iterdir()} == set(ALL_PROGRAMS)
    assert {path.name for path in (root / "maps").iterdir()} == {*ALL_MAPS, "about"}
    assert not (root / "next").exists()


def test_a_generation_describes_itself(small: Kernel) -> None:
    about = Generation(small.generation.root).about

    assert about == small.generation.about
    assert about.layout == abi.current()
    assert about.digest == pins.digest(about.options)
    assert about.digest != pins.digest(Options(about.options.slots * 2, about.options.books))


def test_the_directory_is_locked(directory: Path) -> None:
    with (
        opened(directory),
        pytest.raises(PodtallyError, match=r"in use by another podtally.*--pin-dir"),
    ):
        Pins(directory)
    Pins(directory).close()


def test_the_directory_must_be_on_a_bpffs(tmp_path: Path) -> None:
    with pytest.raises(PodtallyError, match=r"not on a bpffs.*mount -t bpf"):
        Pins(tmp_path / "podtally")


def test_an_empty_directory_has_no_generation(directory: Path) -> None:
    with opened(directory) as empty:
        assert empty.current() is None
        assert empty.successor() is None
        empty.remove_all()
    assert not directory.exists()


def test_remains_of_a_dead_loader_are_not_a_generation(small: Kernel, directory: Path) -> None:
    with opened(directory) as found:
        pin_copy(small.generation, found.next, "half made")
        (found.next / "maps" / "about").unlink()

        assert found.successor() is None
        load(flow_job(TINY, found.next))

        successor = found.successor()
        assert successor is not None
        assert successor.about.generation != small.generation.about.generation


def test_the_successor_keeps_the_secrets_it_is_given(small: Kernel, directory: Path) -> None:
    known = small.generation.about.secrets

    kept, new = flow_job(TINY, directory, known).about, flow_job(TINY, directory).about
    assert kept is not None
    assert new is not None
    assert kept.secrets == known != new.secrets
    assert all(word & 1 for word in known[1::2])


STEPS = range(32)  # more than promote() takes


@pytest.mark.parametrize("replaces", [True, False], ids=["replaces", "is the first"])
@pytest.mark.parametrize("step", STEPS)
def test_promote_can_be_stopped_anywhere(
    small: Kernel, directory: Path, monkeypatch: pytest.MonkeyPatch, step: int, replaces: bool
) -> None:
    with opened(directory) as stopped:
        if replaces:
            pin_copy(small.generation, stopped.root, "old")
        new = pin_copy(small.generation, stopped.next, "new")
        with monkeypatch.context() as patch:
            stop_before(patch, step)
            try:
                stopped.promote()
            except StoppedError:
                assert "new" in known_generations(stopped)

    with opened(directory) as again:
        if again.successor() is not None or (again.root / "maps").is_dir():
            assert again.promote().about == new
        assert again.successor() is None
        assert not again.next.exists()
        promoted = again.current()
        assert promoted is not None
        assert sorted(path.name for path in (again.root / "progs").iterdir()) == sorted(
            ALL_PROGRAMS
        )
        frame = ipv4(TCP, tcp())
        for name, fd in promoted.program_fds().items():
            with bpf.owned(fd):
                assert name in TRACING or bpf.test_run(fd, frame).retval == -1


@pytest.mark.parametrize("step", STEPS)
def test_stopped_amid_a_change_programs_never_count_into_maps_that_are_not_read(
    two_generations: "TwoGenerations",
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Programs and maps that are taken over belong together, wherever promote() was stopped."""
    with opened(directory) as stopped:
        two_generations.pin(stopped)
        with monkeypatch.context() as patch:
            stop_before(patch, step)
            with suppress(StoppedError):
                stopped.promote()

    with opened(directory) as again:
        # The checkpoint names the successor before promote() begins.
        current, successor = settled(again, two_generations.new.about.generation)
        assert successor is None
        assert current is not None
        taken_over = Kernel(current)
        taken_over.reset()
        taken_over.send("from_pod", ipv4(TCP, tcp()))
        assert len(taken_over.entries()) == 1


class TwoGenerations(NamedTuple):
    """Programs with maps of their own each."""

    old: Generation
    new: Generation

    def pin(self, pins: Pins) -> None:
        for generation, root in ((self.old, pins.root), (self.new, pins.next)):
            pin_copy(generation, root, generation.about.generation)


@pytest.fixture(scope="module")
def two_generations(pin_root: Path) -> TwoGenerations:
    for name in ("old", "new"):
        (pin_root / name).mkdir(mode=0o700)
        load(flow_job(TINY, pin_root / name))
    return TwoGenerations(Generation(pin_root / "old"), Generation(pin_root / "new"))


def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(PodtallyError, match=r"another user \(uid 65534\).*--pin-dir"):
        Pins(directory)
    os.chown(directory, 0, 0)
    directory.chmod(0o770)
    with pytest.raises(PodtallyError, match="chmod go-w"):
        Pins(directory)
    directory.chmod(0o755)
    Pins(directory).close()


def test_pins_that_vanish_are_made_again(small: Kernel, directory: Path) -> None:
    with opened(directory) as there:
        about = pin_copy(small.generation, there.root, "kept")
        keeper = PinKeeper(Generation(there.root))
        assert keeper.restore() == []
        (there.root / "maps" / "books").unlink()
        shutil.rmtree(there.root / "progs")
        gone = keeper.restore()
        assert {path.name for path in gone} == {"books", *ALL_PROGRAMS}
        keeper.close()
        again = there.current()
        assert again is not None
        assert again.about == about
        assert again.missing_maps() == again.missing_programs() == []


@pytest.mark.parametrize("name", ALL_MAPS)
def test_a_generation_without_all_of_its_maps_is_not_taken_over(
    small: Kernel, directory: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with opened(directory) as there:
        pin_copy(small.generation, there.root, "broken")
        (there.root / "maps" / name).unlink()
        assert settled(there, None) == (None, None)
    assert f"the pinned map {name} is missing" in caplog.text


def test_a_builder_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    """Python takes a while to start: that one may be gone before this can be asked for."""
    nobody = str(os.getppid())  # not the parent of what is started here
    built = tmp_path / "built.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "podtally.kernel.builder"),
            *("--output", built, "--parent", nobody),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode
    assert not built.exists()


def stop_before(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let ``step`` calls that change a directory happen, and none after them."""
    left = iter(range(step))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def stopping(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise StoppedError
            return call(*args, **kwargs)

        return stopping

    for name in ("unlink", "rmdir", "rename"):
        patch.setattr(os, name, counted(getattr(os, name)))


def known_generations(stopped: Pins) -> set[str]:
    found = (stopped.current(), stopped.successor())
    return {generation.about.generation for generation in found if generation is not None}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("struct hot {", "#define __u64 __u32\nstruct hot {", "hot.traffic is elsewhere"),
        ("__u16 local_port;", "__u16 port;\n#define local_port port", "cannot read"),
        ("__u64 carries;", "__u64 carries __attribute__((aligned(128)));", "cannot read"),
        ("struct hot {", "#pragma pack(4)\nstruct hot {\n\t__u32 first;", "adds a hole"),
    ],
    ids=["narrower", "renamed", "attribute", "packed"],
)
def test_another_layout_than_the_header_says_is_refused(
    directory: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    source = changed_sources(tmp_path / "bpf", "flow.h", old, new)
    with pytest.raises((PodtallyError, LayoutError), match=words):
        load(job_for(source, directory))
    assert not directory.exists()


def test_a_map_of_other_values_than_the_header_says_is_refused(
    directory: Path, tmp_path: Path
) -> None:
    old, new = "u32, struct cold, SET_BY(rows)", "u32, struct hot, SET_BY(rows)"
    source = changed_sources(tmp_path / "bpf", "rows.h", old, new)
    header = source.with_name("rows.h")
    text = header.read_text().replace(
        "struct cold *row = lookup(", "struct cold *row = (void *)lookup("
    )
    header.write_text(text)
    with pytest.raises(PodtallyError, match=r"map cold: its values have 32 bytes, flow\.h says 64"):
        load(job_for(source, directory))
    assert not directory.exists()


def test_a_warning_of_the_compiler_is_an_error(directory: Path, tmp_path: Path) -> None:
    source = changed_sources(
        tmp_path / "bpf",
        "podtally.c",
        "PROGRAM(from_pod,",
        "static int idle(void)\n{\n\treturn 0;\n}\n\nPROGRAM(from_pod,",
    )
    with pytest.raises(PodtallyError, match=r"unused function 'idle'"):
        load(job_for(source, directory))
    assert not directory.exists()


UNSAFE = """\
#include <linux/bpf.h>
#include "object.h"

RING_BUFFER(ring, 4096);
MAP(counts, BPF_MAP_TYPE_PERCPU_ARRAY, u32, u64, 1, 0);

PROGRAM(safe, BPF_PROG_TYPE_TRACEPOINT);
int safe(void *context)
{
	u32 zero = 0;
	u64 *count = lookup(counts, &zero);

	if (count)
		*count += 1;
	return bpf_ringbuf_output(MAP_ADDRESS(ring), &zero, sizeof(zero), 0);
}

PROGRAM(unsafe, BPF_PROG_TYPE_SCHED_CLS);
int unsafe(struct __sk_buff *skb)
{
	return *(char *)(long)skb->data;
}
"""


def test_the_verifiers_words_come_through(directory: Path, tmp_path: Path) -> None:
    source = tmp_path / "unsafe.c"
    source.write_text(UNSAFE)
    job = LoadJob(compile_here(source), {}, str(directory))
    with pytest.raises(PodtallyError, match=r"refuses unsafe: .*outside of the packet") as caught:
        load(job, tmp_path / "log")
    assert f"the whole log is {tmp_path / 'log'}" in str(caught.value)
    assert "unsafe.c was compiled by clang " in (tmp_path / "log").read_text()
    assert not directory.exists()


def test_a_kernel_goes_without_an_optional_program_that_it_refuses(
    directory: Path, tmp_path: Path
) -> None:
    source = tmp_path / "optional.c"
    source.write_text(UNSAFE.replace("PROGRAM(unsafe", "OPTIONAL_PROGRAM(unsafe"))
    assert load(LoadJob(compile_here(source), {}, str(directory))) == ("unsafe",)
    assert [path.name for path in (directory / "progs").iterdir()] == ["safe"]
    assert {path.name for path in (directory / "maps").iterdir()} == {"ring", "counts"}


def test_a_source_that_is_not_there(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(PodtallyError, match=r"nowhere\.c"):
        load(job_for(tmp_path / "nowhere.c", directory))
    assert not directory.exists()

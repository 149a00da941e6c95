# SPDX-License-Identifier: Apache-2.0
"""Compiles, checks, loads and pins kernel programs with bcc, in a process of its own, and exits.

The only importer of bcc: LLVM costs a process well over 100 MB, so the agent runs
this module as a child (``run_loader``) and never imports it. What it is asked
comes as one JSON object on standard input; what failed goes to standard error in
the compiler's or the verifier's own words.
"""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from podtally.kernel import abi, bpf, headers
from podtally.kernel.compile_job import CompileJob
from podtally.kernel.pins import write_about

_MAX_CPU_SECONDS = 120
DISTRIBUTION_PACKAGES = "/usr/lib/python3/dist-packages"  # where Debian and Ubuntu put bcc


def import_bcc() -> Any:
    try:
        import bcc
    except ModuleNotFoundError:
        sys.path.append(DISTRIBUTION_PACKAGES)
        import bcc
    return bcc


def load(job: CompileJob) -> None:
    """Carry out one job; raises what bcc or the kernel said."""
    bcc = import_bcc()
    found = headers.find()
    if found is None:
        raise headers.missing()
    into = Path(job.into)
    for directory in (into / "progs", into / "maps"):
        directory.mkdir(parents=True, mode=0o700)
    with headers.prepared(found) as environment:
        os.environ.update(environment)
        module = bcc.BPF(src_file=job.source.encode(), cflags=_cflags(job))
    if job.about is not None:
        check_layout(module, job.about.layout)
    for name in job.programs:
        program = module.load_func(name.encode(), bcc.BPF.SCHED_CLS)
        bpf.obj_pin(program.fd, into / "progs" / name)
    for name in job.maps:
        bpf.obj_pin(module[name.encode()].map_fd, into / "maps" / name)
    if job.about is not None:
        write_about(into / "maps" / "about", job.about)


def _cflags(job: CompileJob) -> list[str]:
    include = str(Path(job.source).resolve().parent)
    # not -Werror: kernel headers have warnings that depend on the compiler's version; see parse.h
    return [f"-I{include}", "-Wall", *(f"-D{k}={v}" for k, v in job.defines.items())]


def check_layout(module: Any, layout: abi.Layout) -> None:
    """Compare what the compiler laid out with what ``abi`` read from the header."""
    block = np.dtype([("slots", layout.hot, (layout.block_slots,))])
    expected = {
        "control": layout.control,
        "hot": block,
        "cold": layout.cold,
        "books": layout.book,
    }
    if layout.lane is not None:
        expected["lanes"] = layout.lane
    for name, dtype in expected.items():
        table = module[name.encode()]
        compiled = np.dtype(getattr(table, "sLeaf", table.Leaf))
        if compiled != dtype:
            raise abi.LayoutError(f"map {name}: the compiler has {compiled}, flow.h says {dtype}")
    for name in ("books", "lanes"):
        if name in expected and np.dtype(module[name.encode()].Key) != layout.book_key:
            raise abi.LayoutError(f"map {name}: its key is not struct book_key of flow.h")


def die_with_parent(parent: int) -> None:
    """End with the agent ``parent``: a loader must not pin for an agent that is gone.

    It may have been killed before this was asked for, while Python was still starting.
    """
    pr_set_pdeathsig, sigkill = 1, 9
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, sigkill)
    if os.getppid() != parent:
        sys.exit("the agent that asked is gone")


def limit_cpu() -> None:
    """The time that a loader may take on a starved host is no time for one that never ends."""
    with suppress(OSError, ValueError):  # a lower limit holds already, or limits are forbidden
        resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS + 1))


def main() -> int:
    die_with_parent(int(sys.argv[1]))
    limit_cpu()
    try:
        load(msgspec.json.decode(sys.stdin.buffer.read(), type=CompileJob))
    except Exception as error:  # the last word of a process whose only output is its error
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Tests in this folder load programs into the running kernel: they need root."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from podtally.kernel.flow_programs import flow_job
from podtally.kernel.loader import load as load_programs
from podtally.kernel.pins import Options, Pins, filesystem_of
from tests.kernel.driver import Kernel

BPFFS = Path("/sys/fs/bpf")
OPTIONS = Options(slots=131072, books=64)
SMALL = Options(slots=128, books=4)

Load = Callable[[Options], Kernel]


@pytest.fixture(scope="session")
def pin_root() -> Iterator[Path]:
    """A directory on the bpffs for all pins of the session."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if filesystem_of(BPFFS) != "bpf":
        subprocess.run(["mount", "-t", "bpf", "bpf", BPFFS], check=True)
    root = BPFFS / f"ptl-test-{os.getpid()}"
    root.mkdir(mode=0o700)
    try:
        yield root
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def load(pin_root: Path) -> Load:
    """Loaded once for each set of options: the verifier takes longer than a test."""

    @cache
    def loaded(options: Options) -> Kernel:
        numbers = (options.slots, options.books, *options.dns_ports)
        pins = Pins(pin_root / "-".join(map(str, ("loaded", *numbers))))
        try:
            load_programs(flow_job(options, pins.next))
            return Kernel(pins.promote())
        except Exception:
            pins.close()  # or the next test fails of the lock
            raise

    return loaded


@pytest.fixture
def kernel(load: Load) -> Kernel:
    """A table of the default size, empty."""
    kernel = load(OPTIONS)
    kernel.reset()
    return kernel


@pytest.fixture
def small(load: Load) -> Kernel:
    """A table of one block in each half, empty, and accounts for two interfaces."""
    kernel = load(SMALL)
    kernel.reset()
    return kernel

# SPDX-License-Identifier: Apache-2.0
"""The last probe: compiles podtally's own programs and loads them into this kernel."""

import os
import shutil
import time
from pathlib import Path

from podtally.doctor.finding import DoctorFinding
from podtally.errors import PodtallyError
from podtally.kernel import abi, compile_job, pins

_NAME = "own programs"
_BOOKS = 64


def own_programs(pin_dir: Path) -> DoctorFinding:
    """Load them into a directory beside ``pin_dir``, and remove it; takes seconds, mostly clang."""
    trial = pin_dir.with_name(f"{pin_dir.name}-doctor-{os.getpid()}")
    options = pins.Options(slots=abi.current().block_slots, books=_BOOKS)
    started = time.monotonic()
    try:
        compile_job.run_loader(compile_job.flow_job(options, trial))
    except PodtallyError as error:
        return DoctorFinding(_NAME, False, error.what, error.fix, True)
    finally:
        if trial.is_dir():
            shutil.rmtree(trial)
    seconds = time.monotonic() - started
    return DoctorFinding(_NAME, True, f"compiled, loaded and pinned in {seconds:.1f} s", fatal=True)


def skipped() -> DoctorFinding:
    return DoctorFinding(_NAME, None, "not tried, because of the findings above")

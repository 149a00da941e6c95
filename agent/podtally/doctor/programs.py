"""The last probe: podtally's own programs, compiled and put before this kernel's verifier."""

import os
import shutil
import time
from pathlib import Path

from podtally.doctor.finding import Finding
from podtally.errors import PodtallyError
from podtally.kernel import abi, job, pins

_NAME = "own programs"
_BOOKS = 64


def own_programs(pin_dir: Path) -> Finding:
    """Load them into a directory beside ``pin_dir`` and remove that; seconds, mostly clang's."""
    trial = pin_dir.with_name(f"{pin_dir.name}-doctor-{os.getpid()}")
    options = pins.Options(slots=abi.current().block_slots, books=_BOOKS)
    started = time.monotonic()
    try:
        job.run_loader(job.flow_job(options, trial))
    except PodtallyError as error:
        return Finding(_NAME, False, error.what, error.mend, True)
    finally:
        if trial.is_dir():
            shutil.rmtree(trial)
    seconds = time.monotonic() - started
    return Finding(_NAME, True, f"compiled, loaded and pinned in {seconds:.1f} s", fatal=True)


def not_tried() -> Finding:
    return Finding(_NAME, None, "not tried, for what is said above")

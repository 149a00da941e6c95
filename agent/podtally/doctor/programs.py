# SPDX-License-Identifier: Apache-2.0
"""The last probe: loads podtally's own programs into this kernel."""

import os
import shutil
import time

from podtally.config import Config
from podtally.doctor.finding import DoctorFinding
from podtally.errors import PodtallyError
from podtally.kernel import abi, flow_programs, loader, pins, program_object

_NAME = "own programs"
_BOOKS = 64


def own_programs(config: Config) -> DoctorFinding:
    """Load them into a directory beside ``pin_dir``, and remove it; takes tenths of a second."""
    pin_dir = config.pin_dir
    trial = pin_dir.with_name(f"{pin_dir.name}-doctor-{os.getpid()}")
    options = pins.Options(slots=abi.current().block_slots, books=_BOOKS)
    started = time.monotonic()
    try:
        programs = flow_programs.compile_here() if config.compile else program_object.shipped()
        refused = loader.load(flow_programs.flow_job(options, trial, compiled=programs))
    except PodtallyError as error:
        return DoctorFinding(_NAME, False, error.what, error.fix, True)
    finally:
        if trial.is_dir():
            shutil.rmtree(trial)
    seconds = time.monotonic() - started
    detail = f"loaded and pinned in {seconds:.2f} s, as compiled by {programs.compiler}"
    if refused:
        detail += f"; this kernel refuses {', '.join(refused)}, which is optional"
        if any(each.startswith(("dns_", "tls_")) for each in refused):
            detail += ": peers outside have no domain names"
    return DoctorFinding(_NAME, True, detail, fatal=True)


def skipped() -> DoctorFinding:
    return DoctorFinding(_NAME, None, "not tried, because of the findings above")

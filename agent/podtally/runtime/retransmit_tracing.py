# SPDX-License-Identifier: Apache-2.0
"""Lets the kernel report what TCP sends again, where it can."""

import logging
import os
from pathlib import Path

from podtally.kernel.pins import Generation
from podtally.kernel.tracepoints import RETRANSMITS, TracepointError, attach, detach

log = logging.getLogger(__name__)


def trace_retransmits(generation: Generation, links: Path) -> bool:
    """Attach the programs of a generation; False, and a line in the log, if it cannot be done."""
    programs = generation.program_fds()
    try:
        for each in RETRANSMITS:
            attach(each, programs, links)
    except TracepointError as error:
        fix = f" ({error.fix})" if error.fix else ""
        for each in RETRANSMITS:  # an older program may be there
            detach(each, links)
        log.info("retransmissions are not counted: %s%s", error, fix)
        return False
    finally:
        for fd in programs.values():
            os.close(fd)
    return True

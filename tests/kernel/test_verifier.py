# SPDX-License-Identifier: Apache-2.0
"""How much the verifier has to follow of each program: it gives up at a million instructions.

The bounds are twice what today's compilers and kernels need. Another LLVM, or another kernel's
pruning, may double that without a word; what comes near the limit is refused somewhere.
"""

import pytest

from podtally.kernel import bpf
from podtally.kernel.pins import PROGRAMS
from tests.kernel.driver import Kernel

LIMIT = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
COUNTING, OTHER = 120_000, 30_000


def test_no_program_is_near_the_limit_of_the_verifier(kernel: Kernel) -> None:
    verified = {name: bpf.prog_info(fd).verified for name, fd in kernel.programs.items()}
    if not any(verified.values()):
        pytest.skip("this kernel does not report what it verified (5.16: verified_insns)")
    bounds = {name: COUNTING if name in PROGRAMS else OTHER for name in verified}
    assert set(PROGRAMS) <= set(verified)
    assert {n: v for n, v in verified.items() if not 0 < v <= bounds[n]} == {}
    assert max(bounds.values()) < LIMIT / 4

# SPDX-License-Identifier: Apache-2.0
"""Small kernel programs, written as instructions, each of which needs one feature.

Encoded as ``struct bpf_insn`` in ``include/uapi/linux/bpf.h``.
"""

import struct

from podtally.kernel import bpf
from podtally.kernel.prog_load import SCHED_CLS, RefusedError, prog_load

MAP_TYPE_PERCPU_HASH = 5
MAP_TYPE_ARRAY_OF_MAPS = 12
F_MMAPABLE = 1 << 10

# BPF_ATOMIC operations that return the old value (kernel 5.12)
FETCH_ADD = 0x01
FETCH_OR = 0x41
FETCH_AND = 0x51
CMPXCHG = 0xF1

KTIME_GET_COARSE_NS = 160  # enum bpf_func_id

_MOV = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_STORE = 0x7A  # BPF_ST | BPF_MEM | BPF_DW
_ATOMIC = 0xDB  # BPF_STX | BPF_ATOMIC | BPF_DW
_CALL = 0x85
_EXIT = 0x95
_FRAME = 10  # the register that points at the end of the stack


def _instruction(
    code: int, target: int = 0, source: int = 0, offset: int = 0, imm: int = 0
) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, imm)


END = _instruction(_MOV, target=0, imm=-1) + _instruction(_EXIT)  # return TC_ACT_UNSPEC


def atomic(operation: int) -> bytes:
    """Return a program with one atomic operation on the stack."""
    return (
        _instruction(_STORE, target=_FRAME, offset=-8)
        + _instruction(_MOV, target=0)
        + _instruction(_MOV, target=2, imm=1)
        + _instruction(_ATOMIC, target=_FRAME, source=2, offset=-8, imm=operation)
        + END
    )


def call(helper: int) -> bytes:
    """Return a program that calls a helper without arguments."""
    return _instruction(_CALL, imm=helper) + END


def load(instructions: bytes) -> int:
    """Load a tc classifier and return its fd; OSError with the verifier's last line, if any."""
    try:
        return prog_load(SCHED_CLS, "probe", instructions)
    except RefusedError as error:
        raise OSError(error.errno, f"{error.reason}{_last_line(error.log)}") from None


def create_map(kind: int, value_size: int, flags: int = 0, inner_fd: int = 0) -> int:
    """Create a map of one element with a 4-byte key, and return its fd."""
    return bpf.map_create(bpf.MapSpec(kind, 4, value_size, 1, flags, inner_fd))


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith(("processed ", "verification time"))]
    return f": {messages[-1].strip()}" if messages else ""

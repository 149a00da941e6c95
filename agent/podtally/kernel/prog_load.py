# SPDX-License-Identifier: Apache-2.0
"""Loads a program into the kernel; an error has the verifier's words."""

import ctypes
import struct

from podtally.kernel import bpf

SCHED_CLS = 3  # enum bpf_prog_type
_LOG_SIZE = 16 << 20
_LICENSE = b"GPL"  # of bpf/; helpers such as the coarse clock are for GPL programs only


class RefusedError(OSError):
    """The verifier refuses a program; ``log`` is what it wrote."""

    def __init__(self, name: str, error: OSError, log: str) -> None:
        super().__init__(error.errno, f"cannot load the program {name}: {error.strerror}")
        self.reason = error.strerror
        self.log = log

    def __str__(self) -> str:
        return str(self.strerror)


def prog_load(kind: int, name: str, instructions: bytes) -> int:
    """Load a program; RefusedError with the verifier's log if the kernel does not take it."""
    try:
        return _prog_load(kind, name, instructions, None)
    except OSError as error:
        # a log costs time: it is only written once it is needed
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _prog_load(kind, name, instructions, log)
        except OSError:
            raise RefusedError(name, error, log.value.decode(errors="replace")) from None


def _prog_load(
    kind: int, name: str, instructions: bytes, log: "ctypes.Array[ctypes.c_char] | None"
) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(_LICENSE)
    # union bpf_attr: prog_type, insn_cnt, insns, license, log_level, log_size, log_buf,
    # kern_version, prog_flags, prog_name
    attr = bpf.make_attr(
        "IIQQIIQII",
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        *((1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)),
        0,
        0,
    )
    struct.pack_into("=16s", attr, 48, name.encode())
    return bpf.bpf(bpf.PROG_LOAD, attr)

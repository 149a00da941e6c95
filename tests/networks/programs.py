# SPDX-License-Identifier: Apache-2.0
"""Another owner's tc programs: they decide, or redirect IPv4 by destination, as Cilium's do."""

import ctypes
import ipaddress
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from podtally.kernel import bpf

_SCHED_CLS = 3
TC_ACT_OK = 0
REDIRECT, REDIRECT_NEIGH, REDIRECT_PEER = 23, 152, 155  # numbers of helpers, linux/bpf.h
NETKIT_PEER = 55  # an attach type: the pod's end of a pair
# Operation codes, Documentation/bpf/standardization/instruction-set.rst
_MOVE, _COPY, _NOT_EQUAL, _CALL, _EXIT = 0xB7, 0xBF, 0x55, 0x85, 0x95
_LOAD_HALF, _LOAD_WORD = 0x28, 0x20  # of the packet, by r6
_ETHERTYPE_AT, _IPV4, _DESTINATION_AT = 12, 0x0800, 30


def _step(code: int, to: int = 0, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, jump, value)


def director(routes: Mapping[str, int], helper: int) -> bytes:
    """Return a program that sends what goes to an address to an interface, and passes the rest."""
    passing = _step(_MOVE, 0, value=TC_ACT_OK) + _step(_EXIT)
    body = _step(_LOAD_WORD, value=_DESTINATION_AT)
    for address, ifindex in routes.items():
        sending = (
            _step(_MOVE, 1, value=ifindex)
            + b"".join(_step(_MOVE, register) for register in (2, 3, 4))
            + _step(_CALL, value=helper)
            + _step(_EXIT)
        )
        number = int(ipaddress.IPv4Address(address))
        body += _step(_NOT_EQUAL, jump=len(sending) // 8, value=number) + sending
    start = _step(_COPY, 6, 1) + _step(_LOAD_HALF, value=_ETHERTYPE_AT)
    return start + _step(_NOT_EQUAL, jump=len(body) // 8, value=_IPV4) + body + passing


def load(code: bytes) -> int:
    """Load a program; returns its descriptor."""
    kept, terms = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attr = bytearray(144)
    addresses = (ctypes.addressof(kept), ctypes.addressof(terms))
    struct.pack_into("=IIQQ", attr, 0, _SCHED_CLS, len(code) // 8, *addresses)
    attr[48:53] = b"other"
    return bpf.bpf(bpf.PROG_LOAD, attr)


def attach_last(code: bytes, ifindex: int, hook: int) -> int:
    """Attach behind what is on a TCX hook; returns the link's descriptor, which keeps it there."""
    with bpf.owned(load(code)) as program:
        return bpf.bpf(bpf.LINK_CREATE, bpf.make_attr("IIII", program, ifindex, hook, 0))


@contextmanager
def pinned(code: bytes, directory: Path) -> Iterator[Path]:
    pin = directory / f"ptl-other-{os.getpid()}"
    with bpf.owned(load(code)) as program:
        bpf.obj_pin(program, pin)
    try:
        yield pin
    finally:
        pin.unlink()

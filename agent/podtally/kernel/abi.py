# SPDX-License-Identifier: Apache-2.0
"""The layout of the maps, read from the text of ``bpf/flow.h``.

The header is the only place where the layout is written. The text the running
programs were compiled with is pinned beside them, so maps of an older layout are
read by their own header. This module knows a small, strict part of C and refuses
the rest: a change of the header is understood here or stops the build.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from podtally.kernel import sources
from podtally.kernel.header_text import Field, LayoutError, read_constants, read_structs

HEADER = sources.BPF_DIR / sources.HEADER

_SCALARS = {"__u8": "u1", "__u16": "u2", "__u32": "u4", "__u64": "u8"}

Struct = np.dtype[np.void]


@dataclass(frozen=True)
class Layout:
    """The structs and limits of one ``flow.h``; numpy dtypes have the structs' names."""

    text: str
    control: Struct
    hot: Struct
    cold: Struct
    book_key: Struct
    book: Struct
    lane: Struct | None  # None: layouts without lanes
    handshake: Struct | None  # None: layouts without handshakes
    piece: Struct | None  # None, as the next: layouts without captured messages
    bound: Struct | None
    ring_bytes: int
    lanes: int  # of each interface
    block_slots: int
    packet_shift: int
    byte_carry_bit: int
    packet_carry_bit: int
    seen_shift: int
    seen_syn_only: int
    seen_syn_ack: int
    seen_socket: int  # 0 in layouts that did not know of sockets: no row says so
    seen_group: int  # 0, as the next: layouts without it
    seen_unparsed: int
    seen_icmp_error: int
    seen_icmp_relayed: int
    error_fingerprint: int
    seen_carried_bit: int
    seen_packet: int  # 0, as the next: layouts without handshakes
    seen_rejected: int
    seen_timed_bit: int
    seen_retries_shift: int
    seen_retries_mask: int
    handshake_shift: int


def parse_structs(header: str) -> dict[str, Struct]:
    return {name: _dtype(name, fields) for name, fields in read_structs(header).items()}


def _dtype(struct: str, fields: list[Field]) -> Struct:
    parts = [
        (name, _SCALARS[scalar], () if length is None else (length,))
        for name, scalar, length in fields
    ]
    packed = np.dtype(parts)
    if packed != np.dtype(parts, align=True):
        raise LayoutError(f"struct {struct}: the compiler adds a hole; spell it out as pad")
    return packed


@cache
def parse(text: str) -> Layout:
    """Read a whole header; raises LayoutError naming what is missing."""
    structs, constants = parse_structs(text), read_constants(text)
    try:
        return Layout(
            text=text,
            control=structs["control"],
            hot=structs["hot"],
            cold=structs["cold"],
            book_key=structs["book_key"],
            book=structs["book"],
            lane=structs.get("lane"),
            handshake=structs.get("handshake"),
            piece=structs.get("piece"),
            bound=structs.get("bound"),
            ring_bytes=constants.get("RING_BYTES", 0),
            lanes=constants.get("LANES", 0),
            block_slots=constants["BLOCK_SLOTS"],
            packet_shift=constants["PACKET_SHIFT"],
            byte_carry_bit=constants["BYTE_CARRY_BIT"],
            packet_carry_bit=constants["PACKET_CARRY_BIT"],
            seen_shift=constants["SEEN_SHIFT"],
            seen_syn_only=constants["SEEN_SYN_ONLY"],
            seen_syn_ack=constants["SEEN_SYN_ACK"],
            seen_socket=constants.get("SEEN_SOCKET", 0),
            seen_group=constants.get("SEEN_GROUP", 0),
            seen_unparsed=constants.get("SEEN_UNPARSED", 0),
            seen_icmp_error=constants.get("SEEN_ICMP_ERROR", 0),
            seen_icmp_relayed=constants.get("SEEN_ICMP_RELAYED", 0),
            error_fingerprint=constants.get("ERROR_FINGERPRINT", 0),
            seen_carried_bit=constants["SEEN_CARRIED_BIT"],
            seen_packet=constants.get("SEEN_PACKET", 0),
            seen_rejected=constants.get("SEEN_REJECTED", 0),
            seen_timed_bit=constants.get("SEEN_TIMED_BIT", 0),
            seen_retries_shift=constants.get("SEEN_RETRIES_SHIFT", 0),
            seen_retries_mask=constants.get("SEEN_RETRIES_MASK", 0),
            handshake_shift=constants.get("HANDSHAKE_SHIFT", 0),
        )
    except KeyError as missing:
        raise LayoutError(f"flow.h: {missing} is not there") from None


def current() -> Layout:
    """The layout of the header shipped with this package."""
    return parse(HEADER.read_text())

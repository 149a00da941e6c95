# SPDX-License-Identifier: Apache-2.0
"""Follow the handshake of connections: from the kernel's rows to what is known by now.

A handshake may be spread over rows of several epochs. Its times are the kernel's, in units of
2^shift ns modulo 2^32; only their differences are used.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.kernel import abi

TCP = 6
TCP_RST, TCP_ACK = 4, 16
MAX_RETRIES = 255
TIMES = 3  # of a handshake, see PROGRESS

# Facts of PROGRESS.
OPENED, ANSWERED, COMPLETED = 1, 2, 4  # which times are valid
SENT, RECEIVED = 8, 16  # packets of the flow itself, from and to the endpoint
REJECTED = 32  # by an ICMP error
RELAYED = 64  # that came from another address than the peer's

# The state of one handshake. ``time``: of the first SYN, SYN/ACK, and ACK that answers that; of
# other protocols the first packet, and the first one against it.
PROGRESS = np.dtype(
    [("time", "u4", (TIMES,)), ("icmp", "u2"), ("retries", "u1"), ("facts", "u1")],
)

Progress = NDArray[np.void]
_FINE = np.uint64(1)  # in ``first_ns``, FIRST_SEEN_FINE


class HandshakeBits(NamedTuple):
    """Bits of ``seen``; from ``bpf/flow.h``."""

    shift: int  # from one direction to the next
    syn_only: int
    syn_ack: int
    timed: int = 0  # the number of the first of TIMES bits; 0: rows without handshakes
    retries: int = 0  # where the count of repeated SYNs begins
    retries_mask: int = 0
    unit: int = 0  # 2^unit ns
    relayed: int = 0

    def timed_bit(self, step: int) -> int:
        """Return the bit of rows that have the time of a step, from 0 on."""
        return 1 << self.timed + step

    def of_handshakes(self) -> int:
        """Return all bits that change what is known of a handshake."""
        syns = self.syn_only | self.syn_ack
        times = sum(self.timed_bit(step) for step in range(TIMES))
        return times | self.retries_mask << self.retries | syns | syns << self.shift


def handshake_bits(layout: abi.Layout) -> HandshakeBits:
    return HandshakeBits(
        shift=layout.seen_shift,
        syn_only=layout.seen_syn_only,
        syn_ack=layout.seen_syn_ack,
        timed=layout.seen_timed_bit,
        retries=layout.seen_retries_shift,
        retries_mask=layout.seen_retries_mask,
        unit=layout.handshake_shift,
        relayed=layout.seen_icmp_relayed,
    )


class HandshakeRows(NamedTuple):
    """Rows of flows; index i of every array is the same one."""

    seen: NDArray[np.uint64]
    packets: NDArray[np.int64]  # (n, 2)
    first_ns: NDArray[np.uint64]  # of their first packet, with the bit that says how fine
    first_direction: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    handshake: NDArray[np.void]  # struct handshake


def may_change(
    before: Progress,
    seen: NDArray[np.uint64],
    packets: NDArray[np.int64],
    bits: HandshakeBits,
) -> NDArray[np.bool_]:
    """Return for which connections another row may have news for ``advance``. (n,)

    That saves reading the times of rows in the middle of a connection.
    """
    known = before["facts"]
    changes: NDArray[np.bool_] = _directions(packets) & ~known != 0
    if bits.timed:
        changes |= _has(seen, bits.of_handshakes()) | (known & (ANSWERED | COMPLETED) == ANSWERED)
    return changes


def advance(before: Progress, rows: HandshakeRows, bits: HandshakeBits) -> Progress:
    """Return what is known after another row of each connection. (n,)"""
    found = before.copy()
    if not bits.timed:
        found["facts"] |= _directions(rows.packets)
        return found
    known = before["facts"].astype(np.int64)
    tcp = rows.protocol == TCP
    row_opened, row_answered, row_completed = (
        _has(rows.seen, bits.timed_bit(step)) for step in range(TIMES)
    )
    first = (rows.first_ns >> np.uint64(bits.unit)).astype(np.uint32)
    fine = (rows.first_ns & _FINE) != 0
    own = rows.seen >> (rows.first_direction.astype(np.uint64) * np.uint64(bits.shift))
    syn, syn_ack = _has(own, bits.syn_only), _has(own, bits.syn_ack)
    # The packet that claimed the row is not timed: its time is the row's.
    claims = (
        (tcp & syn & ~row_opened, OPENED),
        (tcp & syn_ack & ~row_answered & ~(syn & ~row_opened), ANSWERED),
        (tcp & _has(own, TCP_ACK) & ~syn & ~syn_ack & (known & ANSWERED != 0), COMPLETED),
    )
    other = np.where(rows.first_direction == 0, RECEIVED, SENT)
    answers = ~tcp & (known & (SENT | RECEIVED) == other)  # the row begins with the answer
    begins = ~tcp & (known & (SENT | RECEIVED) == 0)
    for i, (claimed, fact) in enumerate(claims):
        timed = (row_opened, row_answered, row_completed)[i] & (tcp | ~answers)
        at = np.where(timed, rows.handshake["time"][:, i], first)
        by_row = claimed | (begins if i == 0 else answers if i == 1 else False)
        valid = (timed | by_row & fine) & (known & fact == 0)
        found["time"][:, i] = np.where(valid, at, found["time"][:, i])
        found["facts"] |= np.where(valid, fact, 0).astype(np.uint8)
    repeats = (rows.seen >> np.uint64(bits.retries)) & np.uint64(bits.retries_mask)
    again = tcp & _either(rows.seen, bits.syn_only, bits) & (known & (SENT | RECEIVED) != 0)
    total = before["retries"].astype(np.int64) + repeats.astype(np.int64) + again
    found["retries"] = np.minimum(total, MAX_RETRIES)
    found["facts"] |= _directions(rows.packets)
    return found


def reject(
    before: Progress, seen: NDArray[np.uint64], icmp: NDArray[np.uint16], bits: HandshakeBits
) -> Progress:
    """Return what is known after ICMP errors that end an attempt to connect. (n,)"""
    found = before.copy()
    new = before["facts"] & REJECTED == 0
    found["icmp"] = np.where(new, icmp, before["icmp"])
    relayed = new & _either(seen, bits.relayed, bits)
    found["facts"] |= np.uint8(REJECTED) | np.where(relayed, RELAYED, 0).astype(np.uint8)
    return found


def seconds(
    progress: Progress, start: int, end: int, unit: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return where both times are valid, and the seconds between them: ``start`` and ``end`` are
    OPENED, ANSWERED or COMPLETED. (n,) each
    """
    both = start | end
    known: NDArray[np.bool_] = progress["facts"] & both == both
    times = progress["time"]
    places = {OPENED: 0, ANSWERED: 1, COMPLETED: 2}
    units = (times[:, places[end]] - times[:, places[start]]).astype(np.float64)
    return known, units * (1 << unit) / 1e9


def _directions(packets: NDArray[np.int64]) -> NDArray[np.uint8]:
    sent, received = packets[:, 0] > 0, packets[:, 1] > 0
    return (sent * SENT | received * RECEIVED).astype(np.uint8)


def _has(seen: NDArray[np.uint64], bit: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = seen & np.uint64(bit) != 0
    return has


def _either(seen: NDArray[np.uint64], bit: int, bits: HandshakeBits) -> NDArray[np.bool_]:
    return _has(seen, bit | bit << bits.shift)

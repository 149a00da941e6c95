# SPDX-License-Identifier: Apache-2.0
"""Decide who opened a connection, from what its packets show; the evidence can be forged.

An endpoint that may send raw frames can forge whatever leaves its own interface, and, where
the node routes a frame back to it, whatever seems to come from a peer; a peer can forge what
arrives. So contradicting evidence is never settled in favour of one side: the connection is
CONTESTED, policy is asked about both openings, and the stricter answer holds. Forged evidence
can add an opening, and never take one away.
"""

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    CONTESTED,
    TCP,
    TCP_ACK,
    Flags,
)


def opener_of(seen: NDArray[np.uint64], key: NDArray[np.void], flags: Flags) -> NDArray[np.uint8]:
    """Return BEGAN_* of connections, with CONTESTED where both sides seem to have opened. (n,)

    TCP: a SYN without ACK is an opening of its sender. A SYN/ACK says that the other side
    asked, if that side went on: an unasked one (a scan, backscatter) is refused with a RST
    that has no ACK. Other protocols: the side of the first packet.
    """
    here_syn, there_syn = _has(seen, flags.syn_only), _has(seen, flags.syn_only << flags.shift)
    here_answers = _has(seen, flags.syn_ack) & _has(seen, TCP_ACK << flags.shift)
    there_answers = _has(seen, flags.syn_ack << flags.shift) & _has(seen, TCP_ACK)
    here, there = here_syn | there_answers, there_syn | here_answers
    # Of contradicting evidence the answer tells which is likelier: only who was asked answers.
    likelier = np.select(
        [there_answers & ~here_answers, here_answers & ~there_answers],
        [BEGAN_HERE, BEGAN_THERE],
        BEGAN_UNKNOWN,
    )
    tcp = np.select(
        [here & there, here, there],
        [CONTESTED | likelier, np.full_like(likelier, BEGAN_HERE), BEGAN_THERE],
        BEGAN_UNKNOWN,
    )
    others = np.where(key["first_direction"] == 0, BEGAN_HERE, BEGAN_THERE)
    return np.where(key["protocol"] == TCP, tcp, others).astype(np.uint8)


def opening_flags(flags: Flags) -> np.uint64:
    """Return the bits of ``seen`` that ``opened`` goes by, in both directions."""
    each = flags.syn_only | flags.syn_ack | TCP_ACK
    return np.uint64(each | each << flags.shift)


def is_certain(began: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where one side is known to have opened, and nothing contradicts it. (n,)"""
    certain: NDArray[np.bool_] = (began == BEGAN_HERE) | (began == BEGAN_THERE)
    return certain


def _has(seen: NDArray[np.uint64], bits: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = seen & np.uint64(bits) != 0
    return has

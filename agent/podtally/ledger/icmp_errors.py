# SPDX-License-Identifier: Apache-2.0
"""Rows of ICMP errors: which flow each is about (``bpf/quote.h``)."""

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.table import FlowRows
from podtally.ledger.connections import Flags


def errors_among(seen: NDArray[np.uint64], flags: Flags) -> NDArray[np.bool_]:
    """Return which rows are of ICMP errors. (n,)"""
    said = np.uint64(flags.icmp_error | flags.icmp_error << flags.shift)
    found: NDArray[np.bool_] = (seen & said) != 0
    return found


def quoted_fingerprints(rows: FlowRows, flags: Flags) -> NDArray[np.uint64]:
    """Return the fingerprints of the flows that rows of ICMP errors are about. (n,)"""
    to_here = np.uint64(flags.icmp_error << flags.shift)
    relayed = np.uint64(flags.icmp_relayed | flags.icmp_relayed << flags.shift)
    shift = ((rows.seen & to_here) != 0) + 2 * ((rows.seen & relayed) != 0)
    quoted: NDArray[np.uint64] = rows.fingerprint ^ (
        np.uint64(flags.error_fingerprint) << shift.astype(np.uint64)
    )
    return quoted

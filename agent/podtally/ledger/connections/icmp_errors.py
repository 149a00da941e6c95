# SPDX-License-Identifier: Apache-2.0
"""Find rows of ICMP errors, and the flow that each quotes (``bpf/quote.h``)."""

import numpy as np
from numpy.typing import NDArray

from podtally.kernel.table import FlowRows
from podtally.ledger.connections.connections import Flags


def errors_among(seen: NDArray[np.uint64], flags: Flags) -> NDArray[np.bool_]:
    """Return which rows are of ICMP errors. (n,)"""
    bits = np.uint64(flags.icmp_error | flags.icmp_error << flags.shift)
    found: NDArray[np.bool_] = (seen & bits) != 0
    return found


def quoted_fingerprints(rows: FlowRows, flags: Flags) -> NDArray[np.uint64]:
    """Return the fingerprints of the flows that ICMP errors quote. (n,)"""
    to_local = np.uint64(flags.icmp_error << flags.shift)
    relayed = np.uint64(flags.icmp_relayed | flags.icmp_relayed << flags.shift)
    shift = ((rows.seen & to_local) != 0) + 2 * ((rows.seen & relayed) != 0)
    quoted: NDArray[np.uint64] = rows.fingerprint ^ (
        np.uint64(flags.error_fingerprint) << shift.astype(np.uint64)
    )
    return quoted

# SPDX-License-Identifier: Apache-2.0
"""The parts that lines of the flow log and of the event log share."""

import msgspec


class DirectionSums(msgspec.Struct, frozen=True):
    """What the endpoint sent (egress) and received (ingress)."""

    egress: int
    ingress: int

# SPDX-License-Identifier: Apache-2.0
"""A captured piece of a packet: DNS, or the beginning of a TLS connection."""

from typing import NamedTuple

TCP, UDP = 6, 17


class Captured(NamedTuple):
    """``endpoint`` is the interface's index; 0 stands for all interfaces of the host."""

    endpoint: int
    at_ns: int  # CLOCK_MONOTONIC, as the first packets of flows
    local: bytes  # addresses, 16 bytes each
    remote: bytes
    local_port: int
    remote_port: int
    protocol: int
    is_sent: bool  # by the endpoint
    sequence: int  # of the first byte, TCP
    is_cut: bool  # the packet has more bytes behind ``data``
    data: bytes
    is_hello: bool = False  # it may be of a TLS ClientHello
    via: int = 0  # the interface by which it reached the host; 0: sent, or made here
    fine_ns: int = 0  # the time when the packet passed; ``at_ns`` may be that of the tick before


HOST = 0  # ``endpoint`` of what host processes send and receive

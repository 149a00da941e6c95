# SPDX-License-Identifier: Apache-2.0
"""Finds bytes that reach a pod without passing its link on the host, where our programs are.

``bpf_redirect_peer()`` hands a packet to the pod's own end of the pair: no hook of the host's end
sees it (Cilium's eBPF host routing). The pod's end then counts what the host's end never sent
(veth_get_stats64(), since kernel 6.6: commit 6f2684bf2b44).
"""

from podtally.netlink.links import get_link, get_peer
from podtally.netlink.model import Link
from podtally.netlink.netlink import Requests


def bypassing_bytes(requests: Requests, link: Link) -> int:
    """Return how many bytes the pod behind a pair got past it, since the pair was made; OSError."""
    if link.kind != "veth" or link.peer_nsid < 0:
        return 0
    peer = get_peer(requests, link)  # first: so what passes between the two readings is no finding
    now = get_link(requests, link.ifindex)
    if peer is None or now is None:
        return 0
    return max(0, peer.rx_bytes - now.tx_bytes)

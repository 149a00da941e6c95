# SPDX-License-Identifier: Apache-2.0
"""Finds bytes that pass between a pod and others without its link on the host, where ours are.

``bpf_redirect_peer()`` hands a packet to the pod's own end of the pair: no hook of the host's end
sees it (Cilium's eBPF host routing). The pod's end then counts what the host's end never sent
(veth_get_stats64(), since kernel 6.6: commit 6f2684bf2b44). A program on the pod's end of a
netkit pair may redirect what the pod sends (netkit_xmit()): the host's end never received it.
"""

from podtally.netlink.links import get_link, get_peer
from podtally.netlink.model import Link
from podtally.netlink.netlink import Requests


def bypassing_bytes(requests: Requests, link: Link) -> int:
    """Return how many bytes went to or from the pod behind a pair past it, ever; OSError."""
    if link.kind not in ("veth", "netkit") or link.peer_nsid < 0:
        return 0
    peer = get_peer(requests, link)  # first: so what passes between the two readings is no finding
    now = get_link(requests, link.ifindex)
    if peer is None or now is None:
        return 0
    sent = max(0, peer.tx_bytes - now.rx_bytes) if link.kind == "netkit" else 0
    return max(0, peer.rx_bytes - now.tx_bytes) + sent

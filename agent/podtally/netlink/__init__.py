# SPDX-License-Identifier: Apache-2.0
"""What the kernel reports by netlink: links, addresses, routes, qdiscs, conntrack, sockets."""

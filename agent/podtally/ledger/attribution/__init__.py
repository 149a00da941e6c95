# SPDX-License-Identifier: Apache-2.0
"""For new connections: endpoint, peer, verdict, account and event."""

# SPDX-License-Identifier: Apache-2.0
"""podtally: exact books of every pod's traffic, by an agent that never touches a packet."""

__version__ = "0.1.0"

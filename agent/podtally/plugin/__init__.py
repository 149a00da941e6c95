# SPDX-License-Identifier: Apache-2.0
"""``kubectl podtally``: queries the agents of a cluster from a laptop, and merges their replies.

Imports neither numpy nor the agent: it must run from a zipapp, on any system with Python.
"""

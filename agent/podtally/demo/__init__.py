# SPDX-License-Identifier: Apache-2.0
"""``podtally demo``: a small shop in network namespaces, observed by a real agent.

Everything is in the demo's own network namespaces: no interface, firewall rule or agent of
the host is involved. The demo starts the agent as an operator would, and reads only its
``/metrics`` and its event log.
"""

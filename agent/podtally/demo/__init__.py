# SPDX-License-Identifier: Apache-2.0
"""``podtally demo``: a small shop in network namespaces, its traffic, and podtally's books of it.

Everything stands in a network namespace of the demo's own, so that no interface, firewall
rule or podtally of the host plays a part. The agent is the real one, started as any
operator would; the demo only reads its ``/metrics`` and its event log.
"""

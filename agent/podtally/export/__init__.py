# SPDX-License-Identifier: Apache-2.0
"""Readers of the ledger: /metrics, /livez, /readyz and the flow log."""

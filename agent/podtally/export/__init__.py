# SPDX-License-Identifier: Apache-2.0
"""Outputs of the ledger and the agent: /metrics, the flow log and the event log."""

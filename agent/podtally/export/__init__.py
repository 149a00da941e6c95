"""Readers of the ledger: /metrics, /livez, /readyz and the flow log."""

# SPDX-License-Identifier: Apache-2.0
"""Which outcomes of connections are failures, for readers of the metrics and of the ledger."""

_FAILURES = ("refused", "rejected", "half_open")
_UNANSWERED = "unanswered"  # a failure of TCP only: others need not answer


def is_failure(outcome: str, protocol: str) -> bool:
    return outcome in _FAILURES or (outcome == _UNANSWERED and protocol == "tcp")

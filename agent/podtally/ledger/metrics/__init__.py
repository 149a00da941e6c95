# SPDX-License-Identifier: Apache-2.0
"""The declarations of the ledger's metrics, and the view that readers get."""

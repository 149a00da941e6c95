# SPDX-License-Identifier: Apache-2.0
"""The checkpoint file, and what parts of the ledger save in it."""

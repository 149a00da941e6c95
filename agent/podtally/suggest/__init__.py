# SPDX-License-Identifier: Apache-2.0
"""Writes policies from observed conversations, and proves what they allow and deny."""

# SPDX-License-Identifier: Apache-2.0
"""Connections: their totals, who opened them, and what an epoch knows of new ones."""

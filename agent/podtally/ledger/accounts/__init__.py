# SPDX-License-Identifier: Apache-2.0
"""Sums of bytes and packets by interface and labels, and the series that show them."""

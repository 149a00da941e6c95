# SPDX-License-Identifier: Apache-2.0
"""The books of each interface, and whether they balance with the interface's own counter."""

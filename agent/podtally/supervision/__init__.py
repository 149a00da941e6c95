# SPDX-License-Identifier: Apache-2.0
"""Threads that survive errors, and conditions that are logged when they start, last and end."""

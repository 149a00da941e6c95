# SPDX-License-Identifier: Apache-2.0
"""Lint: valid policies that are probably mistakes."""

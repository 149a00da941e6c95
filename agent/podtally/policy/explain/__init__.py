# SPDX-License-Identifier: Apache-2.0
"""Explanations: why a connection has its verdict."""

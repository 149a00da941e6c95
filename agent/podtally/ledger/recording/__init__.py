# SPDX-License-Identifier: Apache-2.0
"""Rows of the history: by minute and conversation."""

# SPDX-License-Identifier: Apache-2.0
"""Keeps and queries the history: what each endpoint moved, by minute and conversation."""

# SPDX-License-Identifier: Apache-2.0
"""Answers from the history, and how ``flows`` prints them."""

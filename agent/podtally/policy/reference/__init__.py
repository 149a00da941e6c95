# SPDX-License-Identifier: Apache-2.0
"""The reference engine: one connection at a time, in the words of the API's documentation."""

# SPDX-License-Identifier: Apache-2.0
"""Validation: what the API server would reject."""

# SPDX-License-Identifier: Apache-2.0
"""Helpers on numpy arrays that know nothing of networks."""

# SPDX-License-Identifier: Apache-2.0
"""Policies as commands read, probe and explain them."""

# SPDX-License-Identifier: Apache-2.0
"""Strict YAML and JSON for people: values with their lines, and errors that say how to fix them."""

# SPDX-License-Identifier: Apache-2.0
"""The commands, and the tables and readers that they share."""

# SPDX-License-Identifier: Apache-2.0
"""What commands share: arguments, exit codes, tables, times, and queries of the agent."""

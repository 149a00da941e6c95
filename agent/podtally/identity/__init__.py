# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces' endpoints and of address owners, by time: one immutable table."""

# SPDX-License-Identifier: Apache-2.0
"""Who is behind an interface or an address: sources in, one immutable table out."""

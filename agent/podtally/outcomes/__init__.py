# SPDX-License-Identifier: Apache-2.0
"""What became of connections: pure, arrays in, arrays out."""

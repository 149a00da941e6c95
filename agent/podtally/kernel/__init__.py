# SPDX-License-Identifier: Apache-2.0
"""The layout, the maps and the programs in the kernel, and how they get there."""

# SPDX-License-Identifier: Apache-2.0
"""What lies in the kernel: the layout, the maps, the programs, and getting them there."""

# SPDX-License-Identifier: Apache-2.0
"""``podtally doctor``: what this host offers and lacks, and the fix for each."""

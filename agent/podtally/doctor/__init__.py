# SPDX-License-Identifier: Apache-2.0
"""``podtally doctor``: checks host requirements, and says how to fix what is missing."""

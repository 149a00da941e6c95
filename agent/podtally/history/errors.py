# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a store."""


class StoreError(Exception):
    """The file is not a store of this version, or is damaged; the text says how."""

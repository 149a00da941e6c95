# SPDX-License-Identifier: Apache-2.0
"""Values that sources on this node share."""

Labels = tuple[tuple[str, str], ...]

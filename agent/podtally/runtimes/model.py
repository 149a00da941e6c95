# SPDX-License-Identifier: Apache-2.0
"""Types shared by the sources of names on this node."""

Labels = tuple[tuple[str, str], ...]

# SPDX-License-Identifier: Apache-2.0
"""Live tables: conversations for ``top`` and the demo, DNS questions for ``dns``."""

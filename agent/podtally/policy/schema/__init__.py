# SPDX-License-Identifier: Apache-2.0
"""Policy documents as they are written: structs, and how text is decoded into them."""

# SPDX-License-Identifier: Apache-2.0
"""From text, files and the API to policies, and what becomes of what cannot be read."""

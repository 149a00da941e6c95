# SPDX-License-Identifier: Apache-2.0
"""Domain names of peers, and what endpoints asked in DNS."""

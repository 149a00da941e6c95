# SPDX-License-Identifier: Apache-2.0
"""The agent's API: queries for endpoints, addresses and policies, and the shapes of replies."""

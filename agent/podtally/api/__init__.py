# SPDX-License-Identifier: Apache-2.0
"""What the agent answers about endpoints, addresses and policies, and in which shapes."""

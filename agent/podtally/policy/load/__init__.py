# SPDX-License-Identifier: Apache-2.0
"""Loading: from text, files and the API to policies, or stand-ins for unreadable ones."""

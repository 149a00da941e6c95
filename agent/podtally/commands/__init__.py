# SPDX-License-Identifier: Apache-2.0
"""Commands that consist of little more than their arguments."""

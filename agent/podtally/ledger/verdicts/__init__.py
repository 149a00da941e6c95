# SPDX-License-Identifier: Apache-2.0
"""What the policies decide on connections."""

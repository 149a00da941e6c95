# SPDX-License-Identifier: Apache-2.0
"""What the API server would refuse."""

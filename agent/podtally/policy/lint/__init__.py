# SPDX-License-Identifier: Apache-2.0
"""What is valid and should be otherwise."""

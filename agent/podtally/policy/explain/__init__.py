# SPDX-License-Identifier: Apache-2.0
"""Why a connection has its verdict, in words."""

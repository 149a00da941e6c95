# SPDX-License-Identifier: Apache-2.0
"""The other ends of connections, behind a Service the backend."""

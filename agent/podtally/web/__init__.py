# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: listeners, TLS, authentication, and the client that commands use."""

# SPDX-License-Identifier: Apache-2.0
"""The commands, a module each; what they share is in packages below."""

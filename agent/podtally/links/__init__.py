# SPDX-License-Identifier: Apache-2.0
"""The network interfaces of this host: which there are, our programs on them, what they counted."""

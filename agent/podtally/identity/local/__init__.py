# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of the host's own endpoints, and the directory that all sources fill."""

# SPDX-License-Identifier: Apache-2.0
"""Sources of names on this node: processes, cgroups, pod logs, container runtimes."""

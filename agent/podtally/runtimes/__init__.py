# SPDX-License-Identifier: Apache-2.0
"""What this node itself knows of workloads: processes, cgroups, pod logs, runtimes."""

# SPDX-License-Identifier: Apache-2.0
"""Test cases of policies: a cluster, its policies, probes and expected verdicts."""

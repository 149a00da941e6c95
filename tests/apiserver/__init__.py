# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for tests: lists, watches, faults, exec and port-forward."""

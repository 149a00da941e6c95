# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API: client (list and watch) and the objects it returns."""

# SPDX-License-Identifier: Apache-2.0
"""Kubernetes: the API's client (list and watch), and the objects that it brings."""

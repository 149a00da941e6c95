# SPDX-License-Identifier: Apache-2.0
"""Policies as texts of the tests write them."""

HEAD = (
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
)

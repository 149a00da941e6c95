# SPDX-License-Identifier: Apache-2.0
"""A cluster as manifests describe it: namespaces, nodes, pods and Services."""

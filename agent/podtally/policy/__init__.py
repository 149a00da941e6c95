# SPDX-License-Identifier: Apache-2.0
"""Network policies: from manifests to a verdict for each connection, with its reason."""

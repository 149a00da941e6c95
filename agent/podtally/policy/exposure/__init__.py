# SPDX-License-Identifier: Apache-2.0
"""Which pods Ingresses and Services expose to the outside."""

# SPDX-License-Identifier: Apache-2.0
"""Which pods are declared to be exposed to the outside."""

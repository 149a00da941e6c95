# SPDX-License-Identifier: Apache-2.0
"""What the objects of a cluster say of names and addresses: the API's events in, claims out."""

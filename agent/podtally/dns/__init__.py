# SPDX-License-Identifier: Apache-2.0
"""Domain names of peers, from the DNS answers that an endpoint itself received. Pure."""

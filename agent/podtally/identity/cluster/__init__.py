# SPDX-License-Identifier: Apache-2.0
"""Names and addresses from the cluster's objects: takes the API's events, returns claims."""

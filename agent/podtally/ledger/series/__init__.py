# SPDX-License-Identifier: Apache-2.0
"""Label sets of the metrics, their sums, and the limits on how many an endpoint may have."""

# SPDX-License-Identifier: Apache-2.0
"""What a server answers, with status 503, until the agent counts."""

STARTING = "starting"

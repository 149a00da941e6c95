# SPDX-License-Identifier: Apache-2.0
"""The vectorised engine: many connections at once, with the reference engine's verdicts."""

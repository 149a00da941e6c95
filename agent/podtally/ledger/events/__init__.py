# SPDX-License-Identifier: Apache-2.0
"""Events by what the event log shows, with limits on their number."""

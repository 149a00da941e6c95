# SPDX-License-Identifier: Apache-2.0
"""The running agent: bring-up, the epoch loop, the exactly-once journal, reload and stop."""

# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the e2e lane that give an agent."""

from tests.e2e.conftest import bpffs, make_agent, places

__all__ = ("bpffs", "make_agent", "places")

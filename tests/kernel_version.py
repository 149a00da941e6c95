# SPDX-License-Identifier: Apache-2.0
"""Features of the running kernel by version, so that tests of newer ones skip.

A probe could fail where the version says that it must not, and would then hide that.
"""

import platform

import pytest

VERSION = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
HAS_TCX = VERSION >= (6, 6)

needs_tcx = pytest.mark.skipif(not HAS_TCX, reason="the kernel is older than TCX (6.6)")


def skip_newer(items: list[pytest.Item]) -> None:
    """Skip what has TCX for a parameter, where there is none."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if any(str(each) == "tcx" for each in parameters.values()):
            item.add_marker(needs_tcx)

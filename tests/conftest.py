# SPDX-License-Identifier: Apache-2.0
"""Lanes, isolation of parallel workers, and failures printed as they happen."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.isolation import isolate
from tests.kernel_version import skip_newer

LINES = 40
TESTS = Path(__file__).parent

# The time of an example depends on the machine's load, not on the code.
settings.register_profile("podtally", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("podtally")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        isolate()
    elif not hasattr(config, "workerinput"):
        subprocess.run([TESTS.parent / "scripts" / "build-programs", "--stale"], check=True)
    config.pluginmanager.register(_FailurePrinter(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its lane, which is its folder under tests/."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
    skip_newer(items)


class _FailurePrinter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            last = report.longreprtext.splitlines()[-LINES:]
            terminal.write_line("\n" + "\n".join([f"{report.nodeid}, {report.when}:", *last]))

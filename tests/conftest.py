"""A failure is told at once, not at the end of a long run."""

import pytest
from hypothesis import HealthCheck, settings

LINES = 40

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("podtally", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("podtally")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Teller(config))


class _Teller:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            last = report.longreprtext.splitlines()[-LINES:]
            terminal.write_line("\n" + "\n".join([f"{report.nodeid}, {report.when}:", *last]))

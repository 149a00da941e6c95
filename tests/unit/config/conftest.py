# SPDX-License-Identifier: Apache-2.0
"""A configuration file of the test's own; none of the host is read."""

from pathlib import Path

import pytest

from podtally.config import loader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "podtally.yaml"


@pytest.fixture(autouse=True)
def _no_file_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "DEFAULT_FILE", tmp_path / "none.yaml")

# SPDX-License-Identifier: Apache-2.0
"""A certificate authority, a server's certificate, and a web configuration that a test writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apiserver.certificates import Authority, Pair
from tests.e2e.web_support import NAMES

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> Path:
        path = tmp_path / "web.yml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server", NAMES)

# SPDX-License-Identifier: Apache-2.0
"""Web configurations for tests, with passwords that cost little."""

import base64
from pathlib import Path

import bcrypt

from tests.apiserver.certificates import Pair

CHEAP = 4  # the least that bcrypt takes
_SALT = "abcdefghijklmnopqrstuu"  # 16 bytes, as bcrypt writes them


def hashed(password: str, cost: int = CHEAP) -> str:
    """The same hash each time: it is in the names of tests, which all workers must agree on."""
    return bcrypt.hashpw(password.encode(), f"$2b${cost:02}${_SALT}".encode()).decode()


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def written(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def secure(pair: Pair, more: str = "") -> str:
    return f"tls_server_config: {{cert_file: {pair.certificate}, key_file: {pair.key}{more}}}\n"

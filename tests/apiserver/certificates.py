# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made with the openssl command."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """A CA that lives as long as its folder."""

    def __init__(self, folder: Path, name: str = "test-ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl command")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.own = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        self._new_key(self.own.key)
        self._openssl(
            "req", "-x509", "-key", str(self.own.key), "-out", str(self.own.certificate),
            "-days", "2", "-subj", f"/CN={name}",
        )  # fmt: skip

    def issue(self, name: str, alternatives: str = "") -> Pair:
        """Return a certificate of ``name``; ``alternatives`` as in IP:127.0.0.1,DNS:localhost."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        self._new_key(pair.key)
        self._openssl(
            "req", "-new", "-key", str(pair.key), "-out", str(request), "-subj", f"/CN={name}"
        )
        extensions.write_text(f"subjectAltName={alternatives}\n" if alternatives else "")
        self._openssl(
            "x509", "-req", "-in", str(request), "-out", str(pair.certificate), "-days", "2",
            "-CA", str(self.own.certificate), "-CAkey", str(self.own.key), "-CAcreateserial",
            "-extfile", str(extensions),
        )  # fmt: skip
        return pair

    def _new_key(self, path: Path) -> None:
        self._openssl(
            "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path)
        )

    @staticmethod
    def _openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Registrable domains, with the package's own table as the oracle."""

from pathlib import Path

import pytest
from publicsuffixlist import PublicSuffixList

from podtally.dns.registrable import PublicSuffixes, list_file
from podtally.errors import PodtallyError


def test_against_the_package() -> None:
    ours, theirs = PublicSuffixes(list_file()), PublicSuffixList()
    lines = [line for line in list_file().read_text().splitlines() if line and line.isascii()]
    names = [f"a.b.{rule}" for rule in lines if rule[0].isalnum()][::25]
    names += [
        "www.city.kawasaki.jp",
        "x.y.kawasaki.jp",
        "a.b.c.ck",
        "www.ck",
        "b.example.zzz",
        "example.zzz",
    ]
    for name in names:
        assert ours.registrable(name) == (theirs.privatesuffix(name) or name), name


def test_names_without_a_registrable_domain() -> None:
    ours = PublicSuffixes(list_file())
    assert [ours.registrable(each) for each in ("co.uk", "uk", "localhost", "")] == [
        "co.uk",
        "uk",
        "localhost",
        "",
    ]


def test_an_unreadable_list_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("// nothing\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for name in ("missing", "empty", "binary"):
        with pytest.raises(PodtallyError, match="public suffix list"):
            PublicSuffixes(tmp_path / name)

# SPDX-License-Identifier: Apache-2.0
"""Policy files that change: read again, last good versions, missing paths."""

import json
import os
from pathlib import Path

import pytest

from podtally.policy.load import policy_files
from podtally.policy.load.parser import read_text
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.model import (
    ALLOW,
    Rule,
)
from tests.unit.policy.policy_parser_support import HEAD


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.yaml").write_text("a: [")
    (tmp_path / "notes.txt").write_text("a: [")
    first, second = tmp_path / "a.yaml", tmp_path / "sub" / "b.json"
    first.write_text(HEAD)
    second.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}))
    files = PolicyFiles([tmp_path])
    loaded = files.load()
    assert (len(loaded.parsed.policies), len(loaded.parsed.others)) == (1, 1)
    assert (loaded.changed, loaded.stale, loaded.parsed.problems) == (True, (), ())
    assert not files.load().changed

    first.write_text(HEAD + "spec: {ingress: [{}]}")  # the same second, another size
    loaded = files.load()
    assert loaded.changed
    assert loaded.parsed.policies[0].ingress == (Rule(0, ALLOW),)

    first.unlink()
    assert files.load().parsed.policies == ()


def test_a_change_under_the_same_stamp_is_seen_while_the_file_is_young(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(HEAD + "spec: {ingress: []}")
    info = path.stat()
    files = PolicyFiles([path])
    files.load()
    path.write_text(HEAD + "spec: {ingress: {}}")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert files.load().stale == (str(path),)


def test_an_old_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(HEAD)
    monkeypatch.setattr(policy_files, "_SETTLED_NS", -1)  # it is old enough at once
    read = []
    monkeypatch.setattr(policy_files, "read_text", lambda *a: read.append(a) or read_text(*a))  # type: ignore[func-returns-value]
    files = PolicyFiles([path])
    assert files.load().changed
    assert not files.load().changed
    path.touch()
    assert not files.load().changed  # another stamp, the same text
    assert len(read) == 1


def test_the_last_good_version_stays_in_force(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(HEAD)
    files = PolicyFiles([tmp_path])
    good = files.load().parsed.policies
    path.write_text(HEAD + "spec: {ingress: [")
    loaded = files.load()
    assert (loaded.parsed.policies, loaded.stale) == (good, (str(path),))
    assert "not YAML" in loaded.parsed.problems[0].message
    again = files.load()
    assert (again.changed, again.stale) == (False, (str(path),))

    path.unlink()
    os.mkfifo(path)  # must not hang
    loaded = files.load()
    assert (loaded.parsed.policies, loaded.stale) == (good, (str(path),))
    assert "regular file" in loaded.parsed.problems[0].message

    path.unlink()
    path.write_text(HEAD)
    loaded = files.load()
    assert (loaded.parsed.policies, loaded.stale, loaded.parsed.problems) == (good, (), ())


def test_a_path_that_is_not_there_is_reported_and_lets_nothing_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    files = PolicyFiles([path])
    loaded = files.load()
    assert [bool(p.unreadable) for p in loaded.parsed.policies] == [True, True]
    assert "No such file" in loaded.parsed.problems[0].message
    path.write_text(HEAD)
    good = files.load()
    assert [p.unreadable for p in good.parsed.policies] == [""]
    path.unlink()
    loaded = files.load()
    assert (loaded.parsed.policies, loaded.stale) == (good.parsed.policies, (str(path),))


def test_a_folder_that_went_away_keeps_its_files_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(HEAD)
    files = PolicyFiles([folder])
    good = files.load().parsed.policies
    folder.rename(tmp_path / "elsewhere")
    loaded = files.load()
    assert (loaded.parsed.policies, loaded.stale) == (good, (str(folder / "a.yaml"),))


def test_a_dangling_link_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "nowhere")
    (problem,) = PolicyFiles([tmp_path]).load().parsed.problems
    assert problem.source == str(tmp_path / "a.yaml")

# SPDX-License-Identifier: Apache-2.0
"""The locks hold what pyproject.toml asks for, and nothing unpinned."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
IMAGE_LOCKS = ("requirements.lock", "requirements-build.lock")
DEV_LOCK = "requirements-dev.lock"
LOCKS = (*IMAGE_LOCKS, DEV_LOCK)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}$")


class Pinned(NamedTuple):
    version: str
    hashes: int
    here: bool  # it is for this machine


def locked(name: str) -> dict[str, Pinned]:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    found: dict[str, Pinned] = {}
    for line in filter(None, lines):
        if line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+(?=--hash)", line.strip())
        requirement = Requirement(text)
        (version,) = requirement.specifier
        assert version.operator == "==", line
        assert all(HASH.match(each) for each in hashes), line
        here = requirement.marker is None or requirement.marker.evaluate()
        found[canonicalize_name(requirement.name)] = Pinned(version.version, len(hashes), here)
    return found


def asked(name: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, build = project["project"]["dependencies"], project["build-system"]["requires"]
    dev = project["project"]["optional-dependencies"]["dev"]
    words = {
        "requirements.lock": run,
        "requirements-build.lock": build,
        DEV_LOCK: run + build + dev,
    }
    return [Requirement(each) for each in words[name]]


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_is_asked_for_is_locked(name: str) -> None:
    pinned = locked(name)
    for requirement in asked(name):
        version = pinned[canonicalize_name(requirement.name)].version
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_its_hashes(name: str) -> None:
    assert [each for each, pinned in locked(name).items() if not pinned.hashes] == []


@pytest.mark.parametrize("name", IMAGE_LOCKS)
def test_tests_run_with_the_versions_of_the_image(name: str) -> None:
    image, dev = locked(name), locked(DEV_LOCK)
    assert image.items() <= dev.items(), "run scripts/lock"


def test_the_tests_run_with_the_locked_versions() -> None:
    """Whatever the system has: .venv does not see it."""
    wanted = {name: each.version for name, each in locked(DEV_LOCK).items() if each.here}
    assert {name: importlib.metadata.version(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", IMAGE_LOCKS)
def test_the_dockerfile_installs_from_it_and_from_nothing_else(name: str) -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip --python \S+ install[^&\n]*", text)
    assert any(f"--require-hashes --only-binary :all: -r {name}" in each for each in installs)
    for each in installs:
        assert "--require-hashes" in each or "--no-index" in each
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert f"!{name}" in ignored

# SPDX-License-Identifier: Apache-2.0
"""Container names from the files of Docker and podman."""

import json
import os
from pathlib import Path

import pytest

from podtally.policy.endpoints import NON_POD_NAMESPACES
from podtally.runtimes.cgroups import SHORT, CgroupOwner, owner_of_path
from podtally.runtimes.engine_files import ContainerName
from podtally.runtimes.engines import ENGINES, ContainerEngine, ContainerNames

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.fixture
def containers(tmp_path: Path) -> ContainerNames:
    return ContainerNames({"docker": tmp_path / "docker", "podman": tmp_path / "podman"})


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_docker(tmp_path: Path, containers: ContainerNames) -> None:
    labels = {"com.docker.compose.service": "db", "com.docker.compose.project": "blog"}
    config = {"ID": ID, "Name": "/blog-db-1", "Config": {"Labels": labels}, "Driver": "overlay2"}
    write(tmp_path / "docker" / ID / "config.v2.json", config)
    assert containers.find(ID) == ContainerName("blog-db-1", tuple(sorted(labels.items())))
    assert containers.find(OTHER) is None


@pytest.mark.parametrize(
    "config", [{"Name": "/web"}, {"Name": "/web", "Config": None}, {"Name": "/web", "Config": {"Labels": None}}]
)  # fmt: skip
def test_docker_without_labels(tmp_path: Path, containers: ContainerNames, config: object) -> None:
    write(tmp_path / "docker" / ID / "config.v2.json", config)
    assert containers.find(ID) == ContainerName("web")


@pytest.mark.parametrize("config", ["", "{", "[]", '{"Name": 1}', '{"Name": "/"}', "{}"])
def test_files_without_a_name(tmp_path: Path, containers: ContainerNames, config: str) -> None:
    write(tmp_path / "docker" / ID / "config.v2.json", config)
    write(tmp_path / "podman/overlay-containers/containers.json", config)
    assert containers.find(ID) is None


@pytest.mark.parametrize(
    "file",
    [
        "overlay-containers/containers.json",
        "overlay-containers/volatile-containers.json",
        "vfs-containers/containers.json",
    ],
)
def test_podman(tmp_path: Path, containers: ContainerNames, file: str) -> None:
    listed = [
        {"id": OTHER, "names": ["other"]},
        {"id": ID, "names": ["web", "alias"], "layer": "x"},
    ]
    write(tmp_path / "podman" / file, listed)
    assert containers.find(ID) == ContainerName("web")
    assert containers.find(OTHER) == ContainerName("other")


def test_fifos_and_links_are_not_followed(tmp_path: Path, containers: ContainerNames) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    write(elsewhere, [{"id": ID, "names": ["wrong"]}])
    directory = tmp_path / "podman/overlay-containers"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "volatile-containers.json")
    (directory / "containers.json").symlink_to(elsewhere)
    assert containers.find(ID) is None


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.units[0])
def test_a_declaration_is_all_that_an_engine_needs(engine: ContainerEngine) -> None:
    names = [f"/system.slice/{prefix}-{ID}.scope" for prefix in engine.prefixes]
    names += [f"/{parent}/{ID}" for parent in engine.parents if parent not in engine.free_names]
    for path in names:
        assert owner_of_path(path) == CgroupOwner(engine.name, ID[:SHORT], ID), path
    for parent in engine.free_names:
        assert owner_of_path(f"/{parent}/web") == CgroupOwner(engine.name, "web"), parent
    assert engine.name in NON_POD_NAMESPACES

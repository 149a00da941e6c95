# SPDX-License-Identifier: Apache-2.0
"""The doctor checks each source of names once, and says what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.config import Config
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.names import names
from podtally.kube.objects import RESOURCES
from podtally.policy.load.api_resources import POLICY_RESOURCES
from tests.apiserver.server import ApiServer, Fault
from tests.unit.kubeconfig_files import write_config


@pytest.fixture
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    yield made
    made.close()


def findings(config: Config) -> dict[str, DoctorFinding]:
    return {finding.name: finding for finding in names(config)}


def asking(server: ApiServer, folder: Path) -> Config:
    cluster = {"server": f"http://127.0.0.1:{server.port}"}
    return Config(kubeconfig=write_config(folder, {"token": "t"}, cluster), cri_socket="off")


def test_every_watched_resource_is_listed(server: ApiServer, tmp_path: Path) -> None:
    for resource in POLICY_RESOURCES:
        if resource.optional:
            server.install(resource.name)
    found = findings(asking(server, tmp_path))
    for resource in (*RESOURCES, *POLICY_RESOURCES):
        assert found[f"API {resource.name}"].ok is True


def test_an_optional_resource_need_not_be_there(server: ApiServer, tmp_path: Path) -> None:
    server.install("adminnetworkpolicies")
    found = findings(asking(server, tmp_path))
    absent = DoctorFinding("API clusternetworkpolicies", None, "not installed")
    assert found["API clusternetworkpolicies"] == absent
    assert found["API adminnetworkpolicies"].ok is True
    server.faults.errors.append(Fault(403, "Forbidden", resource="clusternetworkpolicies"))
    server.faults.errors.append(Fault(404, "NotFound", resource="networkpolicies"))
    found = findings(asking(server, tmp_path))
    assert found["API clusternetworkpolicies"].ok is False
    assert "rbac.yaml" in found["API clusternetworkpolicies"].fix
    assert found["API networkpolicies"].ok is False


def test_a_missing_right_is_named_with_its_fix(server: ApiServer, tmp_path: Path) -> None:
    server.faults.errors.append(Fault(403, "Forbidden", resource="jobs"))
    found = findings(asking(server, tmp_path))
    assert found["API jobs"].ok is False
    assert found["API jobs"].detail.startswith("403")
    assert "rbac.yaml" in found["API jobs"].fix
    assert found["API pods"].ok is True


def test_a_server_that_is_away(server: ApiServer, tmp_path: Path) -> None:
    config = asking(server, tmp_path)
    server.away()
    found = findings(config)["kubernetes API"]
    assert found.ok is False
    assert str(server.port) in found.detail
    server.back()


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    found = findings(Config(kubeconfig=tmp_path / "none", cri_socket="off"))["kubernetes API"]
    assert found.ok is False
    assert str(tmp_path / "none") in found.detail
    assert found.fix


def test_what_is_not_there_is_not_an_error(tmp_path: Path) -> None:
    config = Config(kubernetes="off", cri_socket=str(tmp_path / "cri"), pod_logs=tmp_path / "pods")
    found = findings(config)
    for name in ("kubernetes API", "container runtime", "pod logs"):
        assert found[name].ok is None, name
    (tmp_path / "pods").mkdir()
    assert findings(config)["pod logs"].ok is True

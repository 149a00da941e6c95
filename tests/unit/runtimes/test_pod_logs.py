# SPDX-License-Identifier: Apache-2.0
"""Names from the kubelet's log directories."""

import os
import time
from pathlib import Path

import pytest

from podtally.runtimes.pod_logs import PodLog, PodLogs

UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
HASH = "c0ffee00c0ffee00c0ffee00c0ffee00"  # a static pod's
RECORDED = Path(__file__).parents[4] / "shared/k8s-recordings/node1/var-log-pods.txt"


def test_a_pod_by_its_uid(tmp_path: Path) -> None:
    (tmp_path / f"shop_web-0_{UID}").mkdir()
    (tmp_path / f"kube-system_etcd-node1_{HASH}").mkdir()
    logs = PodLogs(tmp_path)
    assert logs.find(UID) == PodLog("shop", "web-0")
    assert logs.find(HASH) == PodLog("kube-system", "etcd-node1")
    assert logs.find(UID[:-1]) is None


@pytest.mark.parametrize("name", [f"a_b_c_{UID}", f"b_{UID}", f"_b_{UID}", UID, f"__{UID}"])
def test_directories_of_other_names_are_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert PodLogs(tmp_path).find(UID) is None


def test_without_a_kubelet(tmp_path: Path) -> None:
    logs = PodLogs(tmp_path / "pods")
    assert logs.find(UID) is None
    (tmp_path / "pods" / f"shop_web-0_{UID}").mkdir(parents=True)
    assert logs.find(UID) == PodLog("shop", "web-0")


def test_a_late_directory_is_found_even_within_the_same_tick(tmp_path: Path) -> None:
    """A file system's clock may not advance between two directories."""
    logs = PodLogs(tmp_path)
    assert logs.find(UID) is None
    listed_at = os.stat(tmp_path).st_mtime_ns
    (tmp_path / f"shop_web-0_{UID}").mkdir()
    os.utime(tmp_path, ns=(listed_at, listed_at))
    assert logs.find(UID) == PodLog("shop", "web-0")


def test_an_unchanged_directory_is_not_listed_again(tmp_path: Path) -> None:
    """A directory made without a change of the mtime stays unseen until the mtime changes."""
    (tmp_path / f"shop_web-0_{UID}").mkdir()
    long_ago = time.time_ns() - 60_000_000_000
    os.utime(tmp_path, ns=(long_ago, long_ago))
    logs = PodLogs(tmp_path)
    assert logs.find(UID) == PodLog("shop", "web-0")
    (tmp_path / f"kube-system_etcd-node1_{HASH}").mkdir()
    os.utime(tmp_path, ns=(long_ago, long_ago))
    assert logs.find(HASH) is None
    os.utime(tmp_path)
    assert logs.find(HASH) == PodLog("kube-system", "etcd-node1")


def test_directories_of_a_real_kubelet(tmp_path: Path) -> None:
    if not RECORDED.exists():
        pytest.skip(f"{RECORDED} is not here")
    lines = [line.split()[1] for line in RECORDED.read_text().splitlines()]
    inside = [Path(line) for line in lines if line.startswith("/var/log/pods/")]
    names = {path.relative_to("/var/log/pods").parts[0] for path in inside}
    assert len(names) > 3
    for name in names:
        (tmp_path / name).mkdir()
    logs = PodLogs(tmp_path)
    for name in names:
        found = logs.find(name[-36:])
        assert found is not None
        assert f"{found.namespace}_{found.name}_{name[-36:]}" == name

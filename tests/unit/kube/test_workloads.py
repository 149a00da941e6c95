# SPDX-License-Identifier: Apache-2.0
"""The workload of a pod."""

import pytest

from podtally.kube.objects import RESOURCES, KubePod
from podtally.kube.schema import Controller
from podtally.kube.workloads import Workload, from_labels, of_pod
from tests.unit.kube_json import Json, controlled, list_of, pod

PODS = next(resource for resource in RESOURCES if resource.name == "pods")
JOBS = {"uid-run-1": Controller("CronJob", "nightly", "c"), "uid-once": None}
HASH = {"pod-template-hash": "849c6bb7"}


def workload(name: str, owners: list[Json], labels: dict[str, str] | None = None) -> Workload:
    item = pod(name, metadata__ownerReferences=owners, metadata__labels=labels or {})
    (found,) = PODS.decode_list(list_of(item)).objects
    assert isinstance(found, KubePod)
    return of_pod(found, JOBS)


@pytest.mark.parametrize(
    ("owners", "labels", "expected"),
    [
        ([], {}, ("web-x", "Pod")),
        (controlled("ReplicaSet", "web-849c6bb7"), HASH, ("web", "Deployment")),
        (controlled("ReplicaSet", "a-b-849c6bb7"), HASH, ("a-b", "Deployment")),
        (controlled("ReplicaSet", "web"), {}, ("web", "ReplicaSet")),
        (controlled("ReplicaSet", "web849c6bb7"), HASH, ("web849c6bb7", "ReplicaSet")),
        (
            controlled("ReplicaSet", "web-77"),
            {"rollouts-pod-template-hash": "77"},
            ("web", "Rollout"),
        ),
        (controlled("StatefulSet", "db"), {}, ("db", "StatefulSet")),
        (controlled("DaemonSet", "mon"), {}, ("mon", "DaemonSet")),
        (controlled("Job", "run-1"), {}, ("nightly", "CronJob")),
        (controlled("Job", "once"), {}, ("once", "Job")),
        (controlled("Job", "unheard-of"), {}, ("unheard-of", "Job")),
        (controlled("CloneSet", "c"), {}, ("c", "CloneSet")),
        ([{"kind": "Thing", "name": "t", "uid": "u"}], {}, ("web-x", "Pod")),
    ],
)
def test_by_owner_reference(
    owners: list[Json], labels: dict[str, str], expected: tuple[str, str]
) -> None:
    assert workload("web-x", owners, labels) == expected


def test_a_static_pod_is_named_without_its_node() -> None:
    assert workload("proxy-here", controlled("Node", "here")) == ("proxy", "StaticPod")
    mirror = pod("proxy-here", metadata__annotations={"kubernetes.io/config.mirror": "h"})
    (found,) = PODS.decode_list(list_of(mirror)).objects
    assert of_pod(found, {}) == ("proxy", "StaticPod")


REVISION = {"controller-revision-hash": "6d5"}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("web-849c6bb7-nql85", HASH, ("web", "Deployment")),
        ("a-b-849c6bb7-nql85", HASH, ("a-b", "Deployment")),
        ("web-849c6bb7-nql8", HASH, None),
        ("web-nql85", HASH, None),
        ("very-long-849cnql85", HASH, None),
        ("db-0", REVISION | {"statefulset.kubernetes.io/pod-name": "db-0"}, ("db", "StatefulSet")),
        ("db-0", {"statefulset.kubernetes.io/pod-name": "other-0"}, None),
        ("mon-xwzw7", REVISION | {"pod-template-generation": "1"}, ("mon", "DaemonSet")),
        ("mon", REVISION | {"pod-template-generation": "1"}, None),
        ("mon-xwzw7", REVISION, None),
        ("run-1-abcde", {"job-name": "run-1"}, ("run-1", "Job")),
        ("run-1-abcde", {"batch.kubernetes.io/job-name": "run-1"}, ("run-1", "Job")),
        ("web", {"app": "web"}, None),
        ("web", {}, None),
    ],
)
def test_by_labels_alone(
    name: str, labels: dict[str, str], expected: tuple[str, str] | None
) -> None:
    assert from_labels(name, tuple(labels.items())) == expected

# SPDX-License-Identifier: Apache-2.0
"""Which workload a pod belongs to, and of what kind: as the API tells, or by its labels alone."""

from collections.abc import Mapping
from typing import NamedTuple

from podtally.kube.pods import KubePod
from podtally.kube.schema import Controller, Labels

GENERATED = 5  # characters that the API appends to a generateName (names.SimpleNameGenerator)


class Workload(NamedTuple):
    name: str
    kind: str


def of_pod(pod: KubePod, jobs: Mapping[str, Controller | None]) -> Workload:
    """The workload of a pod; ``jobs``: who made the Job of a UID.

    A Job that is not in ``jobs`` stands for itself.
    """
    maker = pod.controller
    if pod.mirrors or (maker and maker.kind == "Node"):
        return Workload(pod.name.removesuffix(f"-{pod.node}"), "StaticPod")
    if maker is None:
        return Workload(pod.name, "Pod")
    if maker.kind == "ReplicaSet":
        return _above(maker.name, dict(pod.labels))
    above = jobs.get(maker.uid) if maker.kind == "Job" else None
    return Workload(above.name, above.kind) if above else Workload(maker.name, maker.kind)


def from_labels(name: str, labels: Labels) -> Workload | None:
    """The workload of a pod of which only name and labels are known; None: they do not tell.

    The labels are those that the controllers set. A Job stands for itself here: a CronJob
    leaves no trace in its pods.
    """
    known = dict(labels)
    parent, _, rest = name.rpartition("-")
    if "pod-template-hash" in known or "rollouts-pod-template-hash" in known:
        # A long name is cut before the random part is put on; then the hash is not there.
        above = _above(parent, known)
        return above if above.kind != "ReplicaSet" and len(rest) == GENERATED else None
    if known.get("statefulset.kubernetes.io/pod-name") == name and rest.isdecimal() and parent:
        return Workload(parent, "StatefulSet")
    if "controller-revision-hash" in known and "pod-template-generation" in known:
        return Workload(parent, "DaemonSet") if parent and len(rest) == GENERATED else None
    job = known.get("batch.kubernetes.io/job-name") or known.get("job-name")
    return Workload(job, "Job") if job else None


def _above(replica_set: str, labels: Mapping[str, str]) -> Workload:
    """Who made a ReplicaSet: its name is its Deployment's and the hash of the pod template.

    Argo Rollouts do as Deployments do, with a label of their own. A ReplicaSet that somebody
    made by hand has neither label and is the workload itself.
    """
    for label, kind in (
        ("pod-template-hash", "Deployment"),
        ("rollouts-pod-template-hash", "Rollout"),
    ):
        digest = labels.get(label)
        if digest and replica_set.endswith(f"-{digest}"):
            return Workload(replica_set.removesuffix(f"-{digest}"), kind)
    return Workload(replica_set, "ReplicaSet")

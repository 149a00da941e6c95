# SPDX-License-Identifier: Apache-2.0
"""Finds the workload of a pod: by its owner reference, or by name and labels alone."""

from collections.abc import Mapping
from typing import NamedTuple

from podtally.kube.pods import KubePod
from podtally.kube.schema import Controller, Labels

GENERATED = 5  # characters that the API appends to a generateName (names.SimpleNameGenerator)


class Workload(NamedTuple):
    name: str
    kind: str


def of_pod(pod: KubePod, jobs: Mapping[str, Controller | None]) -> Workload:
    """Return the workload of a pod; ``jobs`` has the controllers of Jobs, by the Job's UID.

    A Job without an entry is the workload itself.
    """
    controller = pod.controller
    if pod.mirrors or (controller and controller.kind == "Node"):
        return Workload(pod.name.removesuffix(f"-{pod.node}"), "StaticPod")
    if controller is None:
        return Workload(pod.name, "Pod")
    if controller.kind == "ReplicaSet":
        return _replica_set_parent(controller.name, dict(pod.labels))
    if controller.kind == "Job":
        controller = jobs.get(controller.uid) or controller
    return Workload(controller.name, controller.kind)


def from_labels(name: str, labels: Labels) -> Workload | None:
    """Return the workload by a pod's name and labels; None if they do not show it.

    Uses the labels that controllers set. A Job is the workload itself: a CronJob leaves no
    trace in its pods.
    """
    known = dict(labels)
    parent, _, rest = name.rpartition("-")
    if "pod-template-hash" in known or "rollouts-pod-template-hash" in known:
        # The API cuts a long name before it appends the random part; then the hash is missing.
        work = _replica_set_parent(parent, known)
        return work if work.kind != "ReplicaSet" and len(rest) == GENERATED else None
    if known.get("statefulset.kubernetes.io/pod-name") == name and rest.isdecimal() and parent:
        return Workload(parent, "StatefulSet")
    if "controller-revision-hash" in known and "pod-template-generation" in known:
        return Workload(parent, "DaemonSet") if parent and len(rest) == GENERATED else None
    job = known.get("batch.kubernetes.io/job-name") or known.get("job-name")
    return Workload(job, "Job") if job else None


def _replica_set_parent(replica_set: str, labels: Mapping[str, str]) -> Workload:
    """Return a ReplicaSet's Deployment, by its name: DEPLOYMENT-HASH of the pod template.

    Argo Rollouts work like Deployments, with a label of their own. A ReplicaSet made by hand
    has neither label and is the workload itself.
    """
    for label, kind in (
        ("pod-template-hash", "Deployment"),
        ("rollouts-pod-template-hash", "Rollout"),
    ):
        digest = labels.get(label)
        if digest and replica_set.endswith(f"-{digest}"):
            return Workload(replica_set.removesuffix(f"-{digest}"), kind)
    return Workload(replica_set, "ReplicaSet")

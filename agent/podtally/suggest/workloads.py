# SPDX-License-Identifier: Apache-2.0
"""The workloads of a cluster, present and past, and the pods that stand for each."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from podtally.policy.cluster.model import ClusterModel
from podtally.policy.model import HOST, NAMESPACE_NAME_LABEL, POD, PolicyEndpoint
from podtally.runtimes.model import Labels
from podtally.suggest.conversation import POD_PEER, ObservedConversation


class WorkloadName(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


# Labels that controllers set, which differ between the pods or the rollouts of a workload.
VOLATILE_LABELS = frozenset(
    {
        "pod-template-hash",
        "rollouts-pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "job-completion-index",
        "batch.kubernetes.io/job-name",
        "job-name",
    }
)


class Workloads:
    """Pods by workload, those with other labels included that only the history knows."""

    def __init__(
        self, cluster: ClusterModel, conversations: Iterable[ObservedConversation] = ()
    ) -> None:
        self.cluster = cluster
        self.pods: dict[WorkloadName, list[PolicyEndpoint]] = {}
        for member in cluster.members:
            if member.endpoint.kind in (POD, HOST) and not member.over:
                name = WorkloadName(
                    member.endpoint.namespace, member.workload or member.endpoint.name
                )
                self.pods.setdefault(name, []).append(member.endpoint)
        self._seen = {
            name: {_selectable(pod.labels) for pod in pods} for name, pods in self.pods.items()
        }
        for each in conversations:
            self._add_past(WorkloadName(each.namespace, each.workload), each.labels)
            if each.peer_kind == POD_PEER:
                self._add_past(
                    WorkloadName(each.peer_namespace, each.peer_workload), each.peer_labels
                )
        self.names = sorted(self.pods)
        self._spaces: dict[str, list[WorkloadName]] = {}
        for name in self.names:
            self._spaces.setdefault(name.namespace, []).append(name)

    def in_namespace(self, namespace: str) -> list[WorkloadName]:
        return self._spaces.get(namespace, [])

    def is_host_network(self, name: WorkloadName) -> bool:
        """Return whether these are pods in the network of their nodes: no policy selects them."""
        pods = self.pods.get(name, ())
        return bool(pods) and all(pod.host_network and pod.kind == POD for pod in pods)

    def is_host(self, name: WorkloadName) -> bool:
        """Return whether it is a unit or container of a host, or the host: of HostPolicies."""
        return any(pod.kind == HOST for pod in self.pods.get(name, ()))

    def label_sets(self, name: WorkloadName) -> set[Labels]:
        """Return the labels of its pods, without volatile ones."""
        return self._seen.get(name, set())

    def representatives(self, name: WorkloadName) -> list[PolicyEndpoint]:
        """Return a pod for each difference that policies can see, apart from addresses."""
        different = {(pod.labels, pod.ports): pod for pod in reversed(self.pods.get(name, []))}
        return list(different.values())

    def _add_past(self, name: WorkloadName, labels: Mapping[str, str]) -> None:
        if not labels or not name.name:
            return
        written = tuple(sorted(labels.items()))
        key = _selectable(written)
        if key in self._seen.setdefault(name, set()):
            return
        self._seen[name].add(key)
        pod = PolicyEndpoint(
            POD,
            name.namespace,
            f"{name.name} (former pod)",
            written,
            self.cluster.namespaces.get(name.namespace)
            or ((NAMESPACE_NAME_LABEL, name.namespace),),
            ports=None,
        )
        self.pods.setdefault(name, []).append(pod)


def _selectable(labels: Labels | None) -> Labels:
    return tuple(sorted((k, v) for k, v in labels or () if k not in VOLATILE_LABELS))

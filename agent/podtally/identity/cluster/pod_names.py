# SPDX-License-Identifier: Apache-2.0
"""Makes endpoints and owners of pods: the workload, by the Jobs, and how far the pod is."""

from collections.abc import Set

from podtally.identity.cluster.address_leases import LATE_NS
from podtally.identity.cluster.pods import KnownPod, PodTable
from podtally.identity.cluster.topology import Topology
from podtally.identity.model import Endpoint, Owner
from podtally.kube.objects import KubeJob
from podtally.kube.schema import Controller
from podtally.kube.workloads import of_pod


class PodNames:
    """Names the pods of ``pods``; knows the controllers of Jobs."""

    def __init__(self, pods: PodTable, topology: Topology) -> None:
        self._pods = pods
        self._topology = topology
        self._jobs: dict[str, Controller | None] = {}
        self._removed_jobs: set[str] = set()  # kept while their pods are known

    def put_job(self, job: KubeJob) -> None:
        self._removed_jobs.discard(job.uid)
        if job.uid not in self._jobs:
            self._jobs[job.uid] = job.controller
            self._pods.changed |= self._pods.of_job(job.uid)

    def drop_job(self, uid: str) -> None:
        self._removed_jobs.add(uid)

    def jobs(self) -> Set[str]:
        return self._jobs.keys()

    def settle(self) -> None:
        """Forget removed Jobs without pods."""
        for uid in [uid for uid in self._removed_jobs if not self._pods.of_job(uid)]:
            self._removed_jobs.discard(uid)
            self._jobs.pop(uid, None)

    def endpoint(self, known: KnownPod, now_ns: int) -> Endpoint:
        pod = known.pod
        work = of_pod(pod, self._jobs)
        return Endpoint(
            namespace=pod.namespace,
            name=pod.name,
            workload=work.name,
            workload_kind=work.kind,
            source="kubernetes",
            labels=pod.labels,
            uid=pod.uid,
            final=self._final(known, now_ns),
            node=pod.node,
            ports=pod.ports,
            host_network=pod.host_network,
        )

    def owner(self, known: KnownPod, now_ns: int) -> Owner:
        pod = known.pod
        work = of_pod(pod, self._jobs)
        return Owner(
            kind="pod",
            namespace=pod.namespace,
            name=pod.name,
            workload=work.name,
            scope=self._topology.scope(pod.node),
            workload_kind=work.kind,
            node=pod.node,
            uid=pod.uid,
            labels=pod.labels,
            final=self._final(known, now_ns),
            ports=pod.ports,
        )

    def _final(self, known: KnownPod, now_ns: int) -> bool:
        """Return False while the pod's Job, which may belong to a CronJob, may still be listed."""
        controller = known.pod.controller
        if controller is None or controller.kind != "Job" or controller.uid in self._jobs:
            return True
        return now_ns >= known.first_seen_ns + LATE_NS

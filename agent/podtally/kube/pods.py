# SPDX-License-Identifier: Apache-2.0
"""A pod's JSON fields, and the compact form kept in memory, sized for 10,000 pods.

Reduces a pod's status to a few times (``Life``) by the kubelet's rules; ``identity`` decides
from them who has an address when.
"""

from datetime import datetime
from sys import intern
from typing import NamedTuple

import msgspec

from podtally.kube.ports import ContainerPorts, named_ports
from podtally.kube.schema import (
    Controller,
    KubeStruct,
    Labels,
    Metadata,
    Ports,
    controller_of,
    labels_of,
    seconds,
)


class Life(NamedTuple):
    """Times of a pod in Unix seconds, truncated as the API gives them; 0 if not known."""

    admitted_seconds: int  # the kubelet saw it: nothing of it ran before
    sandbox_seconds: int  # its sandbox was ready: it had its address within that second
    first_start_seconds: int  # of any container: no packet of a container is older
    last_proof_seconds: int  # one of its containers or its sandbox was alive
    ended_seconds: int  # the last of its containers ended for good
    gone_seconds: int  # its sandbox was seen to be gone, and its address with it
    over: bool  # none of its containers will run again


class KubePod(msgspec.Struct, frozen=True, gc=False):
    """The fields kept of a pod."""

    namespace: str
    name: str
    uid: str
    node: str
    labels: Labels
    controller: Controller | None
    mirrors: bool  # the mirror of a static pod, which the kubelet made from a file
    config_hash: str  # of a static pod: its UID for the kubelet
    host_network: bool
    addresses: tuple[str, ...]
    life: Life
    ports: Ports = ()  # named ports; pods of one template share the tuple


class _Annotations(KubeStruct, frozen=True):
    mirror: str | None = msgspec.field(name="kubernetes.io/config.mirror", default=None)
    hash: str = msgspec.field(name="kubernetes.io/config.hash", default="")


class _PodMetadata(Metadata, frozen=True):
    annotations: _Annotations | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class _PodSpecJson(KubeStruct, frozen=True):
    node_name: str = ""
    host_network: bool = False
    restart_policy: str = "Always"
    containers: list[ContainerPorts] | None = None
    init_containers: list[ContainerPorts] | None = None


class _RunningState(KubeStruct, frozen=True):
    started_at: datetime | None = None


class _Terminated(KubeStruct, frozen=True):
    exit_code: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None


class _ContainerState(KubeStruct, frozen=True):
    running: _RunningState | None = None
    terminated: _Terminated | None = None


class _ContainerStatus(KubeStruct, frozen=True):
    state: _ContainerState | None = None
    last_state: _ContainerState | None = None


class _PodCondition(KubeStruct, frozen=True):
    type: str
    status: str
    last_transition_time: datetime | None = None


class _PodIp(KubeStruct, frozen=True):
    ip: str = ""


class _PodStatusJson(KubeStruct, frozen=True):
    phase: str = ""
    start_time: datetime | None = None
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[_PodIp] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[_PodCondition] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None
    container_statuses: list[_ContainerStatus] | None = None
    ephemeral_container_statuses: list[_ContainerStatus] | None = None


class WirePod(KubeStruct, frozen=True):
    metadata: _PodMetadata
    spec: _PodSpecJson
    status: _PodStatusJson


def pod_of(pod: WirePod) -> KubePod:
    meta, spec, status = pod.metadata, pod.spec, pod.status
    annotations = meta.annotations or _Annotations()
    listed = tuple(address.ip for address in status.pod_ips or () if address.ip)
    return KubePod(
        namespace=intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        node=intern(spec.node_name),
        labels=labels_of(meta),
        controller=controller_of(meta),
        mirrors=annotations.mirror is not None,
        config_hash=annotations.hash,
        host_network=spec.host_network,
        addresses=listed or ((status.pod_ip,) if status.pod_ip else ()),
        life=_life(meta, spec, status),
        ports=named_ports(spec.containers, spec.init_containers),
    )


def _life(meta: _PodMetadata, spec: _PodSpecJson, status: _PodStatusJson) -> Life:
    statuses = [
        *(status.init_container_statuses or ()),
        *(status.container_statuses or ()),
        *(status.ephemeral_container_statuses or ()),
    ]
    starts = [start for container in statuses for start in _starts(container)]
    over = _over(meta, spec, status, statuses)
    made, gone = _sandbox(status)
    ends = [
        seconds(container.state.terminated.finished_at)
        for container in statuses
        if container.state and container.state.terminated
    ]
    finished = max(ends, default=0)
    # A sandbox that was gone before a container ended is another one, or did not exist yet.
    gone = gone if over and gone >= max((finished, *starts)) else 0
    return Life(
        admitted_seconds=seconds(status.start_time) or seconds(meta.creation_timestamp),
        sandbox_seconds=made,
        first_start_seconds=min(starts, default=0),
        last_proof_seconds=max((made, *starts, *ends)),
        ended_seconds=_ended(meta, spec, finished, gone) if over else 0,
        gone_seconds=gone,
        over=over,
    )


def _starts(container: _ContainerStatus) -> list[int]:
    found = []
    for state in (container.state, container.last_state):
        if state and state.running:
            found.append(seconds(state.running.started_at))
        if state and state.terminated:
            found.append(seconds(state.terminated.started_at))
    return [start for start in found if start > 0]


def _over(
    meta: _PodMetadata, spec: _PodSpecJson, status: _PodStatusJson, statuses: list[_ContainerStatus]
) -> bool:
    if status.phase in ("Succeeded", "Failed"):
        return True
    ended = [container.state.terminated for container in statuses if container.state]
    if not status.container_statuses or len(ended) < len(statuses) or not all(ended):
        return False
    if meta.deletion_timestamp:  # the kubelet starts no container of a deleted pod
        return True
    if any(container.restart_policy for container in spec.containers or ()):
        return False  # container restart rules (KEP-5307): the phase decides
    failed = any(end.exit_code for end in ended if end)
    return spec.restart_policy == "Never" or (spec.restart_policy == "OnFailure" and not failed)


def _sandbox(status: _PodStatusJson) -> tuple[int, int]:
    """Return when the sandbox became ready, and when it ceased to be; one is 0 (KEP-3085)."""
    for condition in status.conditions or ():
        if condition.type == "PodReadyToStartContainers":
            at = seconds(condition.last_transition_time)
            return (at, 0) if condition.status == "True" else (0, at)
    return 0, 0


def _ended(meta: _PodMetadata, spec: _PodSpecJson, finished: int, gone: int) -> int:
    """Return the second in which a finished pod ended; 0 if its status does not say.

    A container that would have been restarted ended for good when its pod was deleted:
    a pod in CrashLoopBackOff keeps its sandbox and its address.
    """
    ended = finished
    if ended and spec.restart_policy == "Always" and meta.deletion_timestamp:
        grace = meta.deletion_grace_period_seconds or 0
        ended = max(ended, seconds(meta.deletion_timestamp) - grace)
    return min(filter(None, (ended, gone)), default=0)

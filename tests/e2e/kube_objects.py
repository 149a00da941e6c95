# SPDX-License-Identifier: Apache-2.0
"""What an API server and a kubelet write of a bare pod through its life, as in ``k8s-recordings``."""

import time
from typing import Any, NamedTuple

Object = dict[str, Any]

NAMESPACE = "soak"
NODE = "node-1"
NODE_ADDRESS = "198.18.0.1"
POD_CIDRS = ("10.99.0.0/24", "2001:db8::/64")


class Identity(NamedTuple):
    name: str
    uid: str
    container: str  # 64 hexadecimal digits
    addresses: tuple[str, ...]


def now() -> str:
    """As the API writes times: in whole seconds, cut off."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def node() -> Object:
    labels = {"topology.kubernetes.io/zone": "zone-1"}
    address = {"type": "InternalIP", "address": NODE_ADDRESS}
    return {
        "metadata": {"name": NODE, "labels": labels},
        "spec": {"podCIDR": POD_CIDRS[0], "podCIDRs": list(POD_CIDRS)},
        "status": {"addresses": [address]},
    }


def namespace() -> Object:
    return {"metadata": {"name": NAMESPACE, "labels": {"kubernetes.io/metadata.name": NAMESPACE}}}


def admitted(who: Identity) -> Object:
    """The kubelet has seen it; it has no sandbox yet."""
    stamp = now()
    return {
        "metadata": {
            "name": who.name,
            "namespace": NAMESPACE,
            "uid": who.uid,
            "creationTimestamp": stamp,
            "labels": {"app": "soak"},
        },
        "spec": {
            "nodeName": NODE,
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "soak:1"}],
        },
        "status": {
            "phase": "Pending",
            "startTime": stamp,
            "conditions": [_sandbox("False", stamp)],
            "containerStatuses": [_container({"waiting": {"reason": "ContainerCreating"}})],
            "hostIP": NODE_ADDRESS,
        },
    }


def running(pod: Object, who: Identity) -> Object:
    stamp = now()
    status = pod["status"] | {
        "phase": "Running",
        "conditions": [_sandbox("True", stamp)],
        "podIP": who.addresses[0],
        "podIPs": [{"ip": address} for address in who.addresses],
        "containerStatuses": [
            _container({"running": {"startedAt": stamp}}) | {"containerID": _id(who)}
        ],
    }
    return pod | {"status": status}


def ended(pod: Object, who: Identity) -> Object:
    """Deleted, and its container has ended."""
    stamp = now()
    (container,) = pod["status"]["containerStatuses"]
    end = container["state"]["running"] | {"exitCode": 0, "finishedAt": stamp}
    status = pod["status"] | {
        "phase": "Succeeded",
        "conditions": [_sandbox("False", stamp)],
        "containerStatuses": [_container({"terminated": end | {"containerID": _id(who)}})],
    }
    mark = {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": 0}
    return pod | {"metadata": pod["metadata"] | mark, "status": status}


def _sandbox(status: str, since: str) -> Object:
    kind = "PodReadyToStartContainers"
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": since}


def _container(state: Object) -> Object:
    return {"name": "main", "state": state, "lastState": {}, "restartCount": 0, "image": "soak:1"}


def _id(who: Identity) -> str:
    return f"containerd://{who.container}"

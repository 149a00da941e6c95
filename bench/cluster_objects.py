# SPDX-License-Identifier: Apache-2.0
"""Lists of a big cluster as the API server sends them, one page to a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = 500
PODS, SERVICES, NODES = 10_000, 1_000, 100
STAMP = "2026-11-20T17:53:00Z"
Json = dict[str, Any]


def write(folder: Path) -> None:
    """Files ``pods-0.json`` … in the order of their pages, and so for the other resources."""
    for resource, items in everything():
        for number, page in enumerate(_pages(items)):
            body = {"metadata": {"resourceVersion": "1", "continue": "more"}, "items": page}
            path = folder / f"{resource}-{number:03}.json"
            path.write_text(json.dumps(body, separators=(",", ":")))


def everything() -> Iterator[tuple[str, Iterator[Json]]]:
    """The objects, by resource."""
    yield "nodes", map(_node, range(NODES))
    yield "services", map(_service, range(SERVICES))
    yield "endpointslices", map(_slice, range(SERVICES))
    yield "pods", map(_pod, range(PODS))


def _pages(items: Iterator[Json]) -> Iterator[list[Json]]:
    page: list[Json] = []
    for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def address(number: int) -> str:
    return f"198.18.{number >> 8}.{number & 255}"


def _uid(kind: str, number: int) -> str:
    return f"{kind:0<8.8}-0000-4000-8000-{number:012x}"


def _pod(number: int) -> Json:
    """Some 8 KB, a third of it ``managedFields``: an application, its sidecar, their probes."""
    app = f"app-{number % SERVICES}"
    digest = f"{number % SERVICES:08x}"
    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": f"{app}-production",
        "app.kubernetes.io/version": f"1.{number % 7}.0",
        "pod-template-hash": digest,
        "tier": ("front", "middle", "back")[number % 3],
    }
    names = [app, "sidecar"]
    return {
        "metadata": {
            "name": f"{app}-{digest}-{number:05x}",
            "generateName": f"{app}-{digest}-",
            "namespace": f"team-{number % 50}",
            "uid": _uid("pod", number),
            "resourceVersion": str(number),
            "creationTimestamp": STAMP,
            "labels": labels,
            "annotations": {"checksum/config": "9f86d081884c7d659a2feaa0c55ad015" * 2},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{app}-{digest}",
                    "uid": _uid("rs", number % SERVICES),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [_manager(labels, names)] * 3,
        },
        "spec": {
            "volumes": [{"name": f"volume-{i}", "configMap": {"name": app}} for i in range(4)],
            "containers": [_container(name) for name in names],
            "restartPolicy": "Always",
            "nodeName": f"node-{number % NODES}",
            "serviceAccountName": app,
            "tolerations": [
                {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
                for key in ("not-ready", "unreachable")
            ],
        },
        "status": _status(number, names),
    }


def _manager(labels: Json, names: list[str]) -> Json:
    """Fields as server-side apply notes them."""
    of_container: Json = {f"f:{key}": {} for key in _container("x")} | {".": {}}
    return {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": STAMP,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {f"f:{key}": {} for key in labels}},
            "f:spec": {"f:containers": {f'k:{{"name":"{name}"}}': of_container for name in names}},
        },
    }


def _container(name: str) -> Json:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    return {
        "name": name,
        "image": f"registry.example/{name}@sha256:{'0123456789abcdef' * 4}",
        "args": ["--listen=:8080", "--config=/etc/app/config.yaml"],
        "env": [{"name": f"SETTING_{i}", "value": "some value"} for i in range(20)],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": f"volume-{i}", "mountPath": f"/etc/{i}"} for i in range(4)],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }


def _status(number: int, names: list[str]) -> Json:
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
    return {
        "phase": "Running",
        "conditions": [
            {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": STAMP}
            for kind in (*conditions, "PodScheduled")
        ],
        "hostIP": "203.0.113.1",
        "podIP": address(number),
        "podIPs": [{"ip": address(number)}],
        "startTime": STAMP,
        "containerStatuses": [
            {
                "name": name,
                "state": {"running": {"startedAt": STAMP}},
                "lastState": {},
                "ready": True,
                "restartCount": 0,
                "image": f"registry.example/{name}:1",
                "containerID": f"containerd://{'0123456789abcdef' * 4}",
            }
            for name in names
        ],
        "qosClass": "Burstable",
    }


def _node(number: int) -> Json:
    return {
        "metadata": {
            "name": f"node-{number}",
            "uid": _uid("node", number),
            "creationTimestamp": STAMP,
            "labels": {"topology.kubernetes.io/zone": f"zone-{number % 3}"},
        },
        "status": {"addresses": [{"type": "InternalIP", "address": f"203.0.113.{number}"}]},
    }


def _service(number: int) -> Json:
    return {
        "metadata": {
            "name": f"app-{number}",
            "namespace": f"team-{number % 50}",
            "uid": _uid("svc", number),
            "creationTimestamp": STAMP,
        },
        "spec": {
            "clusterIPs": [f"10.99.{number >> 8}.{number & 255}"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30000 + number}],
        },
    }


def _slice(number: int) -> Json:
    pods = range(number, PODS, SERVICES)
    return {
        "metadata": {
            "name": f"app-{number}-abcde",
            "namespace": f"team-{number % 50}",
            "labels": {"kubernetes.io/service-name": f"app-{number}"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address(pod)], "conditions": {"ready": True}} for pod in pods],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }

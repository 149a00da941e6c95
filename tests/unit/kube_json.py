# SPDX-License-Identifier: Apache-2.0
"""Objects as the API sends them, made from a test's values."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

Json = dict[str, Any]


class Run(NamedTuple):
    """The times in a pod's status, in Unix seconds; None: not yet."""

    admitted: float | None = None
    sandbox: float | None = None
    started: float | None = None
    finished: float | None = None
    gone: float | None = None  # the sandbox
    exit_code: int = 0


def stamp(seconds: float | None) -> str | None:
    """Format as metav1.Time: whole seconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(name: str = "web-0", uid: str = "", **more: Any) -> Json:
    """``more`` replaces metadata, spec and status by ``__``: ``spec__nodeName="n1"``."""
    made: Json = {
        "metadata": {"name": name, "namespace": "shop", "uid": uid or f"uid-{name}"},
        "spec": {"nodeName": "here", "restartPolicy": "Always", "containers": [{"name": "main"}]},
        "status": {"phase": "Running"},
    }
    for path, value in more.items():
        *above, last = path.split("__")
        target = made
        for part in above:
            target = target[part]
        target[last] = value
    return made


def controlled(kind: str, name: str, uid: str = "") -> list[Json]:
    return [{"kind": kind, "name": name, "uid": uid or f"uid-{name}", "controller": True}]


def status(address: str | None, run: Run, phase: str = "Running") -> Json:
    """A pod's status: one container, one address, one condition."""
    if run.finished is not None:
        state: Json = {
            "terminated": {
                "exitCode": run.exit_code,
                "startedAt": stamp(run.started),
                "finishedAt": stamp(run.finished),
            }
        }
    elif run.started is not None:
        state = {"running": {"startedAt": stamp(run.started)}}
    else:
        state = {"waiting": {"reason": "ContainerCreating"}}
    ready = run.sandbox is not None and run.gone is None
    changed = run.sandbox if ready else run.gone if run.gone is not None else run.admitted
    condition = {
        "type": "PodReadyToStartContainers",
        "status": str(ready),
        "lastProbeTime": None,
        "lastTransitionTime": stamp(changed),
    }
    made: Json = {
        "phase": phase,
        "startTime": stamp(run.admitted),
        "conditions": [condition],
        "containerStatuses": [{"name": "main", "state": state, "lastState": {}}],
    }
    if address:
        made |= {"podIP": address, "podIPs": [{"ip": address}]}
    return made


def list_of(*items: Json, version: str = "7", more: str = "") -> bytes:
    return json.dumps(
        {"metadata": {"resourceVersion": version, "continue": more}, "items": items}
    ).encode()


def event(kind: str, item: Json) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()

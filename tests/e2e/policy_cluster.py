# SPDX-License-Identifier: Apache-2.0
"""A node of a cluster for tests of policy: pods with cgroups and processes, and an API that reports all."""

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.apiserver.server import ApiServer
from tests.apiserver.store import Object
from tests.e2e import kube_objects as objects
from tests.e2e.kube_node import kubeconfig
from tests.e2e.pods import Node, Pod
from tests.e2e.policy_world import no_other_names
from tests.e2e.test_host import cgroup


@dataclass
class Cluster:
    """Made within the node's namespace, where its API listens; ``cluster`` undoes all of it."""

    node: Node
    api: ApiServer
    stack: ExitStack
    _objects: dict[str, Object] = field(default_factory=dict)

    def namespace(self, name: str, **labels: str) -> None:
        whole = {"kubernetes.io/metadata.name": name, **labels}
        self.api.put("namespaces", {"metadata": {"name": name, "labels": whole}})

    def pod(
        self, name: str, labels: Mapping[str, str], namespace: str = "shop", **ports: int
    ) -> Pod:
        """A pod that runs, with a process in its cgroup; ``ports`` are TCP ports that have names."""
        made = self.node.routed_pod(name, 5 + len(self.node.pods))
        uid, container = str(uuid.uuid4()), uuid.uuid4().hex + uuid.uuid4().hex
        path = self.stack.enter_context(cgroup(f"kubepods/besteffort/pod{uid}/{container}"))
        self.stack.enter_context(pod_process(path, made.netns))
        who = objects.Identity(name, uid, container, (made.ipv4,))
        item = objects.running(objects.admitted(who), who)
        item["metadata"] |= {"namespace": namespace, "labels": dict(labels)}
        item["spec"]["containers"][0]["ports"] = [
            {"name": each, "containerPort": port, "protocol": "TCP"} for each, port in ports.items()
        ]
        self._objects[name] = self.api.put("pods", item)
        return made

    def relabel(self, name: str, **labels: str) -> None:
        item = self._objects[name]
        item["metadata"]["labels"] = labels
        self._objects[name] = self.api.put("pods", item)

    def policy(self, name: str, **spec: Any) -> None:
        """A NetworkPolicy ``namespace/name``; over all pods of the namespace, by default."""
        namespace, _, short = name.partition("/")
        metadata = {"namespace": namespace, "name": short}
        spec = {"podSelector": {}, **spec}
        self.api.put("networkpolicies", {"metadata": metadata, "spec": spec})

    def service(self, name: str, front: int, pod: Pod, port: int, **more: Any) -> None:
        """A Service ``namespace/name`` with one backend; ``more`` are ``spec`` and ``status``."""
        namespace, _, short = name.partition("/")
        metadata = {"namespace": namespace, "name": short}
        ports = [{"port": front, "targetPort": port, "protocol": "TCP"}]
        spec = {"type": "ClusterIP", "ports": ports, **more.pop("spec", {})}
        self.api.put("services", {"metadata": metadata, "spec": spec, **more})
        piece = {
            "metadata": {
                "namespace": namespace,
                "name": f"{short}-1",
                "labels": {"kubernetes.io/service-name": short},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [pod.ipv4], "conditions": {"ready": True}}],
            "ports": [{"port": port, "protocol": "TCP"}],
        }
        self.api.put("endpointslices", piece)

    def flags(self, folder: Path) -> tuple[str, ...]:
        path = kubeconfig(folder / "kubeconfig", self.api.url)
        names = ("--kubeconfig", str(path), "--node-name", objects.NODE)
        return (*names, *no_other_names(folder))


@contextmanager
def cluster(node: Node) -> Iterator[Cluster]:
    """With the namespace ``shop``, and no policy."""
    with ExitStack() as stack:
        api = stack.enter_context(ApiServer())
        made = Cluster(node, api, stack)
        api.put("nodes", objects.node())
        made.namespace("shop")
        yield made


@contextmanager
def pod_process(where: Path, netns: str) -> Iterator[None]:
    """A process in a pod's cgroup and network namespace."""
    join = f'echo $$ > "{where}/cgroup.procs"; exec "$@"'
    enter = f"--net=/run/netns/{netns}"
    life = ("setpriv", "--pdeathsig", "KILL", "nsenter", enter, "sleep", "3600")
    process = subprocess.Popen(["sh", "-c", join, "sh", *life])
    try:
        yield
    finally:
        process.kill()
        process.wait()

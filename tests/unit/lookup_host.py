# SPDX-License-Identifier: Apache-2.0
"""A host with pods from the API, queried as the agent's HTTP threads do."""

import time
from collections.abc import Sequence

from podtally.api.dns_lookup import SeenDns
from podtally.api.query_service import QueryService
from podtally.api.schema import Explanation
from podtally.config import StaticEndpoint
from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.interface_endpoints import address_number
from podtally.identity.local.directory import Directory
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from podtally.netlink.model import AddressesChanged
from podtally.policy.load.parser import read_text
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.kube_json import Json, Run, controlled, list_of, pod, stamp, status

DECODERS = {resource.name: resource for resource in RESOURCES}
SECOND = 1_000_000_000

INTO_WEB = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: into-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: a}}}, {ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: http}]
"""
NO_EGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-egress, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
"""


def clocks() -> Clocks:
    return Clocks(time.time_ns(), time.monotonic_ns())


def labelled(name: str, *addresses: str, on: str = "here", **more: str) -> Json:
    """A pod that runs since five minutes, with the label ``app`` of its workload's name."""
    began = time.time() - 300
    made = pod(name, status=status(addresses[0], Run(began, began, began)), spec__nodeName=on)
    made["status"]["podIPs"] = [{"ip": address} for address in addresses]
    made["metadata"]["labels"] = {"app": name.partition("-")[0]}
    made["metadata"]["ownerReferences"] = controlled("StatefulSet", name.partition("-")[0])
    made["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080}]
    made["metadata"] |= more
    return made


class Host:
    """A directory, and what the API reports to it; queried as the HTTP threads do."""

    def __init__(self, *static: StaticEndpoint, cluster: bool = True) -> None:
        self.directory = Directory(static, {}, SECOND, ClusterState("here") if cluster else None)
        self.declared = DeclaredPolicies((), (), ())
        self._links = 6
        self.dns = SeenDns()

    def report(self, resource: str, *items: Json) -> None:
        objects = DECODERS[resource].decode_list(list_of(*items)).objects
        page = ObjectPage(resource, objects, True, True, time.monotonic_ns())
        self.directory.apply_api_event(page, clocks())

    def report_more(self, resource: str, item: Json) -> None:
        (decoded,) = DECODERS[resource].decode_list(list_of(item)).objects
        changed = Changed(resource, "ADDED", decoded, time.monotonic_ns())
        self.directory.apply_api_event(changed, clocks())

    def link(self, found: CgroupOwner | None, *addresses: str, netns: str = "") -> int:
        self._links += 1
        since = time.monotonic_ns() - 60 * SECOND
        self.directory.appeared(self._links, f"veth{self._links}", netns, host=False, at_ns=since)
        packed = [address_number(address).to_bytes(16, "big") for address in addresses]
        self.directory.apply_addresses(AddressesChanged(self._links, tuple(packed), since))
        if found is not None:
            self.directory.process_found(self._links, found)
        return self._links

    def declare(self, *texts: str, candidates: Sequence[str] = ()) -> None:
        policies = tuple(p for text in texts for p in read_text(text, "test").policies)
        would = tuple(p for text in candidates for p in read_text(text, "next", True).policies)
        self.declared = DeclaredPolicies(policies, would, ())

    @property
    def answers(self) -> QueryService:
        self.directory.refresh(time.monotonic_ns())
        return QueryService(self.directory, lambda: self.declared, lambda: self.dns)

    def explain(self, source: str, destination: str, port: int = 80) -> Explanation:
        return self.answers.explain(source, destination, str(port))


def shop() -> Host:
    """``web-0`` and ``db-0`` live here; ``web-1`` and ``db-1`` elsewhere."""
    made = Host()
    spaces = {"shop": {}, "people": {"team": "a"}}
    made.report("namespaces", *({"metadata": {"name": n, "labels": x}} for n, x in spaces.items()))
    created = {"creationTimestamp": stamp(time.time() - 3600)}
    nodes = {"here": "10.99.9.1", "there": "10.99.9.2"}
    made.report(
        "nodes",
        *(
            {
                "metadata": {"name": name, "uid": f"uid-{name}", **created},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            }
            for name, address in nodes.items()
        ),
    )
    made.report(
        "pods",
        labelled("web-0", "10.99.0.2", "2001:db8::2"),
        labelled("db-0", "10.99.0.3"),
        labelled("web-1", "10.99.1.2", "2001:db8:1::2", on="there"),
        labelled("db-1", "10.99.1.3", on="there"),
        labelled("user-0", "10.99.1.4", on="there", namespace="people", uid="uid-user"),
    )
    meta = {"name": "sql", "namespace": "shop", "uid": "uid-sql", **created}
    ports = [{"name": "http", "port": 80}]
    made.report(
        "services", {"metadata": meta, "spec": {"clusterIPs": ["198.18.0.3"], "ports": ports}}
    )
    made.link(CgroupOwner("pod", "uid-web-0", "c" * 64), "10.99.0.2", "2001:db8::2")
    made.link(CgroupOwner("pod", "uid-db-0", "d" * 64), "10.99.0.3")
    return made

# SPDX-License-Identifier: Apache-2.0
"""Finds the agents' pods in a cluster, with nothing but the right to list pods."""

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.backoff import ClientTiming
from podtally.kube.http import ApiError, Client, ContactError

DEFAULT_NAMESPACE = "podtally"
DEFAULT_PORT = 9775
CONTAINER = "podtally"
SELECTOR = "app.kubernetes.io/name=podtally"
_PORT_NAME = "metrics"
_RUNNING = "Running"
_PAGE_PODS = "500"
_MAX_NAMES = 5


class AgentPod(NamedTuple):
    node: str
    namespace: str
    name: str
    port: int
    problem: str = ""  # why it cannot be queried

    @property
    def path(self) -> str:
        """Return its path in the API."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""


class _HttpGet(msgspec.Struct, frozen=True):
    port: int | str = 0


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    http_get: _HttpGet | None = None


class _Container(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    ports: list[_Port] | None = None
    readiness_probe: _Probe | None = None


class _AgentPodMetadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    deletion_timestamp: str | None = None


class _AgentPodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    containers: list[_Container] = []


class _AgentPodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    reason: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _AgentPodMetadata
    spec: _AgentPodSpec = _AgentPodSpec()
    status: _AgentPodStatus = _AgentPodStatus()


class _PodListMetadata(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")


class _PodList(msgspec.Struct, frozen=True):
    metadata: _PodListMetadata = _PodListMetadata()
    items: list[_Pod] = []


def find_agents(
    access: Access, namespace: str | None, nodes: Sequence[str], timing: ClientTiming
) -> list[AgentPod]:
    """Return one agent for each node, by node; only those of ``nodes``, if any are given.

    Without ``namespace`` the usual one is searched, then all. PodtallyError if there is none.
    """
    client = Client(access, timing)
    try:
        agents = _by_node(_list(client, access, namespace or DEFAULT_NAMESPACE))
        if not agents and namespace is None:
            agents = _by_node(_list(client, access, None))
    finally:
        client.drop()
    if not agents:
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        raise PodtallyError(
            f"no agents {where}: no pod has the label {SELECTOR}",
            "is podtally installed there? choose with --context and --agent-namespace",
        )
    return _chosen(agents, nodes)


def _chosen(agents: dict[str, AgentPod], nodes: Sequence[str]) -> list[AgentPod]:
    missing = [node for node in nodes if node not in agents]
    if missing:
        known = sorted(agents)
        more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
        raise PodtallyError(
            f"no agent on node {', '.join(missing)}",
            f"there are agents on: {', '.join(known[:_MAX_NAMES])}{more}",
        )
    return [agents[node] for node in sorted(nodes or agents)]


def _list(client: Client, access: Access, namespace: str | None) -> list[_Pod]:
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"

    def fetch(target: str) -> bytes:
        return _readable(lambda: client.get(target, "application/json"), access, path)

    return list(_pages(path, fetch))


def _pages(path: str, fetch: Callable[[str], bytes]) -> Iterator[_Pod]:
    token = ""
    while True:
        query = {"labelSelector": SELECTOR, "limit": _PAGE_PODS}
        query |= {"continue": token} if token else {}
        page = msgspec.json.decode(fetch(f"{path}?{urlencode(query)}"), type=_PodList)
        yield from page.items
        token = page.metadata.continue_
        if not token:
            return


def _readable(get: Callable[[], bytes], access: Access, path: str) -> bytes:
    """Call ``get``, again with another credential if the first is refused; PodtallyError."""
    server = access.server.url
    try:
        try:
            return get()
        except ApiError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                raise
            access.renew(access.credential())
            return get()
    except ApiError as error:
        raise PodtallyError(
            f"{server} refuses the list of the agents' pods ({path}): {error}",
            "you need the rights in docs/kubectl.md; choose with --context, --agent-namespace",
        ) from None
    except ContactError as error:
        raise PodtallyError(
            f"{server}: {error}", "is the cluster up? choose with --context or --kubeconfig"
        ) from None


def _by_node(pods: Sequence[_Pod]) -> dict[str, AgentPod]:
    """Return the agent of each node: the running one, while pods are replaced."""
    found: dict[str, AgentPod] = {}
    for pod in sorted(pods, key=_usable):
        container = next((c for c in pod.spec.containers if c.name == CONTAINER), None)
        if container is None:
            continue
        node = pod.spec.node_name or f"({pod.metadata.name})"
        phase = pod.status.reason or pod.status.phase
        found[node] = AgentPod(
            node, pod.metadata.namespace, pod.metadata.name, _port(container),
            "" if pod.status.phase == _RUNNING else f"its agent's pod is {phase or 'not running'}",
        )  # fmt: skip
    return found


def _usable(pod: _Pod) -> tuple[bool, bool, str]:
    """Return the sort key: the most usable pod of a node is last."""
    ending = pod.metadata.deletion_timestamp is not None
    return pod.status.phase == _RUNNING, not ending, pod.metadata.name


def _port(container: _Container) -> int:
    """Return the port named metrics, else the one that the kubelet probes."""
    named = {port.name: port.container_port for port in container.ports or ()}
    probe = container.readiness_probe
    probed = probe.http_get.port if probe and probe.http_get else 0
    if _PORT_NAME in named:
        return named[_PORT_NAME]
    return probed if isinstance(probed, int) and probed else DEFAULT_PORT

"""Probes of where names and policies come from: each source is asked once, as the agent would.

Policies in files are ``policies``' to read.
"""

from collections.abc import Iterator
from http import HTTPStatus

from podtally.config import Config
from podtally.doctor.finding import Finding
from podtally.errors import PodtallyError
from podtally.identity.cri import Cri
from podtally.kube.access import Access
from podtally.kube.http import ApiError, Client, ContactError
from podtally.kube.model import Resource
from podtally.kube.objects import RESOURCES
from podtally.kube.reach import api_access
from podtally.kube.retry import Patience
from podtally.links.conntrack import Translator
from podtally.links.conntrack_zones import zones_in_use
from podtally.policy.resources import POLICY_RESOURCES

_API = "kubernetes API"
_RUNTIME = "container runtime"
_TRACKER = "conntrack"


def names(config: Config) -> Iterator[Finding]:
    yield from _kubernetes(config)
    yield _runtime(config)
    yield _pod_logs(config)
    yield _tracker()


def _kubernetes(config: Config) -> Iterator[Finding]:
    try:
        access = api_access(config)
    except PodtallyError as error:
        yield Finding(_API, False, error.what, error.mend)
        return
    if access is None:
        yield Finding(_API, None, "is not asked: no service account here, and no --kubeconfig")
        return
    client = Client(access, Patience())
    try:
        for resource in (*RESOURCES, *POLICY_RESOURCES):
            yield _list(client, access, resource)
    except ContactError as error:
        mend = "check the server's address, and the way to it"
        yield Finding(_API, False, f"{access.server.url}: {error}", mend)
    finally:
        client.drop()
        access.close()


def _list(client: Client, access: Access, resource: Resource) -> Finding:
    name = f"API {resource.name}"
    try:
        client.get(f"{resource.path}?limit=1", resource.accept)
    except ApiError as error:
        if resource.optional and error.code == HTTPStatus.NOT_FOUND:
            return Finding(name, None, "not installed")
        refused = error.code == HTTPStatus.FORBIDDEN
        mend = "kubectl apply -f deploy/base/rbac.yaml" if refused else ""
        return Finding(name, False, str(error), mend)
    return Finding(name, True, f"{access.server.url} lists them")


def _runtime(config: Config) -> Finding:
    if config.cri_socket == "off":
        return Finding(_RUNTIME, None, "is not asked")
    cri = Cri.of(config.cri_socket)
    path = cri.socket()
    if path is None:
        return Finding(_RUNTIME, None, "no CRI socket here: pods are named by logs or the API")
    pods = cri.sandboxes()
    if pods is None:
        return Finding(_RUNTIME, False, f"{path} does not answer", "see the runtime's own log")
    return Finding(_RUNTIME, True, f"{path} knows {len(pods)} pods")


def _pod_logs(config: Config) -> Finding:
    there = config.pod_logs.is_dir()
    detail = str(config.pod_logs) if there else f"no {config.pod_logs}: no kubelet here"
    return Finding("pod logs", there or None, detail)


def _tracker() -> Finding:
    tracker = Translator()
    try:
        if tracker.available:
            return Finding(_TRACKER, True, f"tells which pod answers for a Service; {_zones()}")
        detail = f"{tracker.reason}: Services are resolved only where their endpoints agree"
        return Finding(_TRACKER, None, detail)
    finally:
        tracker.close()


def _zones() -> str:
    """In which zones the tracker keeps connections, as far as can be seen of a big table."""
    try:
        zones = sorted(zones_in_use())
    except OSError as error:
        return f"its zones cannot be listed: {error.strerror}"
    if not zones:
        return "it has no connections now"
    return f"zones in use: {', '.join(map(str, zones))}, all of which are looked into"

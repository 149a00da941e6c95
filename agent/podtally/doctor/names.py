# SPDX-License-Identifier: Apache-2.0
"""Probes of the sources of names and of policies in the API: each is queried once."""

from collections.abc import Iterator
from http import HTTPStatus

from podtally.config import Config
from podtally.doctor.finding import DoctorFinding
from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.api_access import api_access
from podtally.kube.backoff import ClientTiming
from podtally.kube.http import ApiError, Client, ContactError
from podtally.kube.model import WatchedResource
from podtally.kube.objects import RESOURCES
from podtally.netlink.conntrack import Translator
from podtally.netlink.conntrack_zones import zones_in_use
from podtally.policy.load.api_resources import POLICY_RESOURCES
from podtally.runtimes.cri import CriClient

_API = "kubernetes API"
_RUNTIME = "container runtime"
_TRACKER = "conntrack"


def names(config: Config) -> Iterator[DoctorFinding]:
    yield from _kubernetes(config)
    yield _runtime(config)
    yield _pod_logs(config)
    yield _tracker()


def _kubernetes(config: Config) -> Iterator[DoctorFinding]:
    try:
        access = api_access(config)
    except PodtallyError as error:
        yield DoctorFinding(_API, False, error.what, error.fix)
        return
    if access is None:
        yield DoctorFinding(_API, None, "not used: no service account here, and no --kubeconfig")
        return
    client = Client(access, ClientTiming())
    try:
        for resource in (*RESOURCES, *POLICY_RESOURCES):
            yield _list(client, access, resource)
    except ContactError as error:
        fix = "check the server's address and the network"
        yield DoctorFinding(_API, False, f"{access.server.url}: {error}", fix)
    finally:
        client.drop()
        access.close()


def _list(client: Client, access: Access, resource: WatchedResource) -> DoctorFinding:
    name = f"API {resource.name}"
    try:
        client.get(f"{resource.path}?limit=1", resource.accept)
    except ApiError as error:
        if resource.optional and error.code == HTTPStatus.NOT_FOUND:
            return DoctorFinding(name, None, "not installed")
        refused = error.code == HTTPStatus.FORBIDDEN
        fix = "kubectl apply -f deploy/base/rbac.yaml" if refused else ""
        return DoctorFinding(name, False, str(error), fix)
    return DoctorFinding(name, True, f"listed from {access.server.url}")


def _runtime(config: Config) -> DoctorFinding:
    if config.cri_socket == "off":
        return DoctorFinding(_RUNTIME, None, "not used")
    cri = CriClient.from_setting(config.cri_socket)
    path = cri.socket()
    if path is None:
        return DoctorFinding(
            _RUNTIME, None, "no CRI socket here: pods are named from pod logs or the API"
        )
    pods = cri.sandboxes()
    if pods is None:
        return DoctorFinding(_RUNTIME, False, f"{path} does not answer", "see the runtime's log")
    return DoctorFinding(_RUNTIME, True, f"{path}: {len(pods)} pods")


def _pod_logs(config: Config) -> DoctorFinding:
    exists = config.pod_logs.is_dir()
    detail = str(config.pod_logs) if exists else f"no {config.pod_logs}: no kubelet here"
    return DoctorFinding("pod logs", exists or None, detail)


def _tracker() -> DoctorFinding:
    tracker = Translator()
    try:
        if tracker.available:
            return DoctorFinding(_TRACKER, True, f"finds the pod behind a Service; {_zones()}")
        detail = f"{tracker.reason}: Services are resolved only if their endpoints agree"
        return DoctorFinding(_TRACKER, None, detail)
    finally:
        tracker.close()


def _zones() -> str:
    """Return the zones in use, as far as a large table can be read."""
    try:
        zones = sorted(zones_in_use())
    except OSError as error:
        return f"zones unknown: {error.strerror}"
    if not zones:
        return "no connections now"
    return f"zones in use: {', '.join(map(str, zones))}"

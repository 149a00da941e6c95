# SPDX-License-Identifier: Apache-2.0
"""The API resources of policies and Ingresses: what to watch, and what is kept of each object.

The server has accepted the object, and may be newer or older than this code. So its metadata is
not validated again; an unknown field in its spec makes it unreadable, since it may mean anything.
"""

from collections.abc import Callable
from sys import intern
from typing import Any, TypeVar

import msgspec

from podtally.kube.model import WatchedResource
from podtally.kube.schema import KubeStruct, Metadata, event_decoder, list_decoder
from podtally.policy.ingress import CLASS_ANNOTATION, DeclaredIngress, addresses_of
from podtally.policy.load.documents import Document, LineMap
from podtally.policy.load.parser import ParsedPolicies, PolicyObject, read_documents
from podtally.policy.problems import ERROR, Problem

SOURCE = "api"  # the source of problems, in place of a file

T = TypeVar("T")


class ApiPolicyObject(msgspec.Struct, frozen=True):
    """What is kept of an object."""

    kind: str
    namespace: str  # "" if cluster-scoped
    name: str
    uid: str
    policy_object: PolicyObject  # a stand-in, if it is unreadable
    problems: tuple[Problem, ...] = ()  # why it is unreadable


class _PolicyMetadata(Metadata, frozen=True):
    annotations: dict[str, str] | None = None


class _RawObject(KubeStruct, frozen=True):
    metadata: _PolicyMetadata
    spec: Any = None
    status: Any = None


def _declared(item: _RawObject, api_version: str, kind: str) -> ApiPolicyObject:
    meta = item.metadata
    content = {"apiVersion": api_version, "kind": kind, "metadata": _of_metadata(item)}
    if item.spec is not None:
        content["spec"] = item.spec
    if kind == "Ingress":
        content["status"] = item.status
    reading = read_documents((Document(SOURCE, api_version, kind, content, LineMap(None)),))
    meaning = _meaning(reading, item)
    errors = tuple(problem for problem in reading.problems if problem.severity == ERROR)
    name, namespace = intern(meta.name), intern(meta.namespace)
    problems = errors if meaning.unreadable else ()
    return ApiPolicyObject(kind, namespace, name, meta.uid, meaning, problems)


def _of_metadata(item: _RawObject) -> dict[str, Any]:
    """Return the metadata that the policy depends on."""
    meta = item.metadata
    found: dict[str, Any] = {"name": meta.name}
    if meta.namespace:
        found["namespace"] = meta.namespace
    ingress_class = (meta.annotations or {}).get(CLASS_ANNOTATION)
    # Only at its creation an Ingress may not have both (k8s.io/kubernetes ValidateIngressCreate).
    if ingress_class and isinstance(item.spec, dict) and not item.spec.get("ingressClassName"):
        found["annotations"] = {CLASS_ANNOTATION: ingress_class}
    return found


def _meaning(reading: ParsedPolicies, item: _RawObject) -> PolicyObject:
    if reading.policies:
        return reading.policies[0]
    if reading.ingresses:
        return reading.ingresses[0]
    meta, why = item.metadata, "; ".join(map(str, reading.problems[:3]))
    return DeclaredIngress(meta.namespace, meta.name, "", (), addresses_of(item.status), why)


def _resource(path: str, kind: str, optional: bool) -> WatchedResource:
    api_version, _, name = path.removeprefix("/apis/").rpartition("/")

    def compact(item: _RawObject) -> ApiPolicyObject:
        return _declared(item, api_version, kind)

    return WatchedResource(
        name,
        path,
        _bounded(list_decoder(_RawObject, compact)),
        _bounded(event_decoder(_RawObject, compact)),
        optional=optional,
    )


def _bounded(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    def decode_bounded(body: bytes) -> T:
        try:
            return decode(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    return decode_bounded


_ADMIN = "/apis/policy.networking.k8s.io"
POLICY_RESOURCES: tuple[WatchedResource, ...] = (
    _resource("/apis/networking.k8s.io/v1/networkpolicies", "NetworkPolicy", False),
    _resource("/apis/networking.k8s.io/v1/ingresses", "Ingress", False),
    _resource(f"{_ADMIN}/v1alpha2/clusternetworkpolicies", "ClusterNetworkPolicy", True),
    _resource(f"{_ADMIN}/v1alpha1/adminnetworkpolicies", "AdminNetworkPolicy", True),
    _resource(
        f"{_ADMIN}/v1alpha1/baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", True
    ),
)
POLICY_RESOURCE_NAMES = frozenset(resource.name for resource in POLICY_RESOURCES)
INGRESSES = "ingresses"

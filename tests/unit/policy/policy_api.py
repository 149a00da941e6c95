# SPDX-License-Identifier: Apache-2.0
"""Policies as the Kubernetes API sends them, and the events that come of it."""

import json
from collections.abc import Sequence
from typing import Any

from podtally.kube.model import Changed, ObjectPage
from podtally.policy.load.api_resources import POLICY_RESOURCES, ApiPolicyObject

Json = dict[str, Any]
BY_NAME = {resource.name: resource for resource in POLICY_RESOURCES}


def network_policy(name: str, **spec: Any) -> Json:
    """``namespace/name``; over all pods of the namespace, by default."""
    namespace, _, short = name.partition("/")
    metadata = {"name": short, "namespace": namespace, "uid": f"uid-{short}"}
    return {"metadata": metadata, "spec": {"podSelector": {}, **spec}}


def cluster_policy(name: str, **spec: Any) -> Json:
    whole = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, **spec}
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": whole}


def ingress(name: str, **more: Any) -> Json:
    namespace, _, short = name.partition("/")
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    metadata = {"name": short, "namespace": namespace, "uid": f"uid-{short}"}
    return {"metadata": metadata, "spec": {"defaultBackend": backend}, **more}


def decoded(resource: str, *items: Json) -> list[ApiPolicyObject]:
    """As the reflector's thread does it: the items of a list have no kind."""
    body = {"metadata": {"resourceVersion": "7"}, "items": items}
    return list(BY_NAME[resource].decode_list(json.dumps(body).encode()).objects)


def page(resource: str, items: Sequence[Json], first: bool = True, last: bool = True) -> ObjectPage:
    return ObjectPage(resource, decoded(resource, *items), first, last, 1)


def changed(resource: str, kind: str, item: Json) -> Changed:
    line = json.dumps({"type": kind, "object": item}).encode()
    return Changed(resource, kind, BY_NAME[resource].decode_event(line).object, 1)

# SPDX-License-Identifier: Apache-2.0
"""Values that the client of the Kubernetes API and its users exchange."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class ApiStatus(NamedTuple):
    """An error of the API: ``metav1.Status``."""

    code: int  # as in HTTP; 0 if the server gave none
    reason: str
    message: str
    retry_after_seconds: float = 0.0  # ``details.retryAfterSeconds``


class ListPage(NamedTuple):
    """One decoded page of a list."""

    objects: Sequence[Any]
    resource_version: str
    continue_token: str  # "" on the last page
    remaining: int = 0  # objects on later pages; 0 where the server does not know


class WatchEvent(NamedTuple):
    """One decoded line of a watch.

    ``object`` is None for BOOKMARK and ERROR, ``resource_version`` is "" for ERROR, and
    ``status`` is set for ERROR only.
    """

    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
    object: Any | None
    resource_version: str
    status: ApiStatus | None = None


class WatchedResource(NamedTuple):
    """A resource to list and watch, and its decoders (``kube/objects.py``)."""

    name: str  # "pods": for metrics, log lines and the RBAC rule
    path: str  # "/api/v1/pods"
    decode_list: Callable[[bytes], ListPage]
    decode_event: Callable[[bytes], WatchEvent]
    field_selector: str = ""
    accept: str = "application/json"  # or PartialObjectMetadata(List), see the API concepts
    optional: bool = False  # of a CRD that not every cluster has: a 404 is no error


class ObjectPage(NamedTuple):
    """Part of a full list, from ``first`` to ``last``; objects not listed by then are gone.

    A list that fails before its ``last`` page starts again with ``first``.
    """

    resource: str  # WatchedResource.name
    objects: Sequence[Any]
    first: bool
    last: bool
    at_ns: int  # CLOCK_MONOTONIC, when it was received


class Changed(NamedTuple):
    """One change of an object, from a watch."""

    resource: str
    kind: str  # ADDED, MODIFIED, DELETED
    object: Any
    at_ns: int


ApiEvent = ObjectPage | Changed

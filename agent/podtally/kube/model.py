# SPDX-License-Identifier: Apache-2.0
"""What passes between the client of the Kubernetes API and those who use it: values only."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class ApiStatus(NamedTuple):
    """An error as the API words it: ``metav1.Status``."""

    code: int  # as in HTTP; 0 where the server gave none
    reason: str
    message: str
    retry_after_seconds: float = 0.0  # ``details.retryAfterSeconds``


class ListPage(NamedTuple):
    """One decoded page of a list."""

    objects: Sequence[Any]
    resource_version: str
    continue_token: str  # "" on the last page


class WatchEvent(NamedTuple):
    """One decoded line of a watch.

    ``object`` is None with BOOKMARK and ERROR, ``resource_version`` is "" with ERROR, and
    ``status`` is given with ERROR only.
    """

    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
    object: Any | None
    resource_version: str
    status: ApiStatus | None = None


class WatchedResource(NamedTuple):
    """What to list and watch, and how its bytes are decoded (``kube/objects.py``)."""

    name: str  # "pods": for metrics, log lines and the right that RBAC must give
    path: str  # "/api/v1/pods"
    decode_list: Callable[[bytes], ListPage]
    decode_event: Callable[[bytes], WatchEvent]
    field_selector: str = ""
    accept: str = "application/json"  # or PartialObjectMetadata(List), see the API concepts
    optional: bool = False  # of a CRD that a cluster need not have: a 404 says there is none


class ObjectPage(NamedTuple):
    """Part of a full list: from ``first`` to ``last``; what was not listed then is gone.

    A list that fails before its ``last`` page begins again with ``first``.
    """

    resource: str  # Resource.name
    objects: Sequence[Any]
    first: bool
    last: bool
    at_ns: int  # CLOCK_MONOTONIC, when it was received


class Changed(NamedTuple):
    """One change that the API told of."""

    resource: str
    kind: str  # ADDED, MODIFIED, DELETED
    object: Any
    at_ns: int


ApiEvent = ObjectPage | Changed

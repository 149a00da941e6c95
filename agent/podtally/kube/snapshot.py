# SPDX-License-Identifier: Apache-2.0
"""Lists resources of the Kubernetes API once, completely, for a command.

Returns the objects as JSON; does not decode them.
"""

import random
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.backoff import Backoff, ClientTiming
from podtally.kube.http import ApiError, BrokenError, Client, ContactError
from podtally.kube.lister import PagedLister
from podtally.kube.model import ApiStatus, ListPage
from podtally.kube.schema import KubeStruct, ListMetadata

_MAX_ATTEMPTS = 3  # of a request: a user is waiting
_MAX_LISTS = 3  # tokens expire in a slow list; then it is listed again
_MAX_WAIT_SECONDS = 2.0  # the last bound between two attempts
_MAX_RETRY_AFTER_SECONDS = 5.0  # a longer Retry-After is cut to this
_RETRIED = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_JSON = "application/json"

T = TypeVar("T")


class ListedKind(NamedTuple):
    """A kind to list."""

    group: str  # "" for the core
    version: str
    plural: str
    kind: str
    custom: bool = False  # a custom resource, which not every cluster has

    @property
    def path(self) -> str:
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.plural}"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


class Listing(NamedTuple):
    kind: ListedKind  # of the version that was listed
    items: tuple[msgspec.Raw, ...]  # with or without apiVersion and kind


class _RawPage(KubeStruct, frozen=True):
    metadata: ListMetadata
    items: list[msgspec.Raw] | None  # Go writes some empty lists as null


class _ApiVersion(KubeStruct, frozen=True):
    version: str


class _Group(KubeStruct, frozen=True):
    """``metav1.APIGroup``."""

    versions: list[_ApiVersion]


class _ApiResource(KubeStruct, frozen=True):
    name: str


class _Resources(KubeStruct, frozen=True):
    """``metav1.APIResourceList``."""

    resources: list[_ApiResource] | None


class SnapshotLister:
    """Lists from one server, over one connection; calls ``progress`` with a line of text."""

    def __init__(
        self, access: Access, progress: Callable[[str], None], timing: ClientTiming | None = None
    ) -> None:
        self.url = access.server.url
        self._access = access
        self._progress = progress
        self._timing = timing or ClientTiming()
        self._client = Client(access, self._timing)
        self._where = f"the Kubernetes API at {self.url}"

    def close(self) -> None:
        self._client.drop()
        self._access.close()

    def all_of(self, kind: ListedKind) -> Listing:
        """Return all objects of all namespaces; PodtallyError if they cannot be listed.

        A custom resource that the server lacks has no objects. If the server has only another
        version of the resource, that version is listed.
        """
        try:
            return self._list(kind)
        except ApiError as error:
            if not kind.group or error.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                self._refuse(kind, error.status)
            # The server checks RBAC before it looks for the resource, so a 403 may be for a
            # resource that it does not have.
            return self._other_version(kind, error.status)

    def _other_version(self, kind: ListedKind, status: ApiStatus) -> Listing:
        versions = self._versions(kind)
        if kind.version in versions or not (versions or kind.custom):
            self._refuse(kind, status)
        if not versions:
            return Listing(kind, ())
        other = kind._replace(version=versions[0])
        try:
            return self._list(other)
        except ApiError as error:
            self._refuse(other, error.status)

    def _versions(self, kind: ListedKind) -> tuple[str, ...]:
        """Return the versions in which the server has the resource, the preferred one first."""
        try:
            group = self._get(f"/apis/{kind.group}", _Group)
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return ()
            self._refuse_versions(kind, error)
        try:
            return tuple(v.version for v in group.versions if self._has(kind, v.version))
        except ApiError as error:
            self._refuse_versions(kind, error)

    def _has(self, kind: ListedKind, version: str) -> bool:
        found = self._get(f"/apis/{kind.group}/{version}", _Resources)
        return any(resource.name == kind.plural for resource in found.resources or ())

    def _list(self, kind: ListedKind) -> Listing:
        """List from the first page until all pages are of one version; ApiError."""
        lister = PagedLister(kind.path, self._page, self._timing.page_objects)
        for _ in range(_MAX_LISTS - 1):
            try:
                return Listing(kind, self._items(kind, lister))
            except ApiError as error:
                if error.code != HTTPStatus.GONE:
                    raise
        return Listing(kind, self._items(kind, lister))

    def _items(self, kind: ListedKind, lister: PagedLister) -> tuple[msgspec.Raw, ...]:
        items: list[msgspec.Raw] = []
        self._progress(f"listing {kind.plural}")
        for page in lister.pages():
            items += page.objects
            total = f" of {len(items) + page.remaining}" if page.remaining else ""
            if page.continue_token:
                self._progress(f"listing {kind.plural}: {len(items)}{total}")
        return tuple(items)

    def _page(self, target: str) -> ListPage:
        page = self._get(target, _RawPage)
        metadata = page.metadata
        return ListPage(
            page.items or (),
            metadata.resource_version,
            metadata.continue_,
            metadata.remaining_item_count,
        )

    def _get(self, target: str, type_: type[T]) -> T:
        """Return the decoded response; ApiError after retries, PodtallyError if there is none."""
        try:
            return msgspec.json.decode(self._body(target), type=type_)
        except ContactError as error:
            raise PodtallyError(
                f"{self._where}: {error}", "check the server's address and CA, and the way to it"
            ) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise PodtallyError(
                f"{self._where}: cannot decode its response to {target}: {error}",
                "is it an API server? check its address",
            ) from None

    def _body(self, target: str) -> bytes:
        """Return a body; retry where another server or credential may help."""
        backoff = Backoff(self._timing, random.Random())
        renewed = False
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            retry_after = 0.0
            try:
                return self._client.get(target, _JSON)
            except ApiError as error:
                if (
                    error.code == HTTPStatus.UNAUTHORIZED
                    and not renewed
                    and attempt < _MAX_ATTEMPTS
                ):
                    renewed = True
                    self._access.renew(self._client.used)
                    continue
                if error.code not in _RETRIED or attempt == _MAX_ATTEMPTS:
                    raise
                retry_after = min(error.status.retry_after_seconds, _MAX_RETRY_AFTER_SECONDS)
            except BrokenError:
                if attempt == _MAX_ATTEMPTS:
                    raise
            time.sleep(retry_after + backoff.next("error", _MAX_WAIT_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def _refuse_versions(self, kind: ListedKind, error: ApiError) -> NoReturn:
        raise PodtallyError(
            f"{self._where} does not list the versions of {kind.group}: {error}",
            "give the user the ClusterRole system:discovery",
        ) from None

    def _refuse(self, kind: ListedKind, status: ApiStatus) -> NoReturn:
        message = "".join(c if c.isprintable() else " " for c in status.message)
        what = f"{self._where} does not list {kind.plural}: {status.code} {message}"
        if status.code == HTTPStatus.UNAUTHORIZED:
            raise PodtallyError(what, "log in again, or fix the user in the kubeconfig")
        if status.code == HTTPStatus.FORBIDDEN:
            raise PodtallyError(
                what,
                "give the user a ClusterRole with a rule for "
                f'apiGroups: ["{kind.group}"], resources: ["{kind.plural}"], verbs: ["list"]',
            )
        if status.code == HTTPStatus.NOT_FOUND:
            fix = f"it has no {kind.path}: check its address; its version may be too old"
            raise PodtallyError(what, fix)
        raise PodtallyError(what, "try again; the server's own log says more")

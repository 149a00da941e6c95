# SPDX-License-Identifier: Apache-2.0
"""Lists resources of the Kubernetes API once and wholly, for a command that then ends.

What the objects say is for others: they are passed on as the JSON that came.
"""

import random
import time
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access
from podtally.kube.backoff import Backoff, ClientTiming
from podtally.kube.http import ApiError, BrokenError, Client, ContactError
from podtally.kube.model import ApiStatus
from podtally.kube.schema import KubeStruct

_ATTEMPTS = 3  # of a request: somebody waits for it
_LISTS = 3  # whose pages grow old while they are read, before it is given up
_WAIT_SECONDS = 2.0  # the last bound between two attempts
_RETRY_AFTER_SECONDS = 5.0  # the most that a Retry-After is believed
_AGAIN = frozenset(
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
    """What to list."""

    group: str  # "" for the core
    version: str
    plural: str
    kind: str
    custom: bool = False  # a custom resource, which a cluster need not have

    @property
    def path(self) -> str:
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.plural}"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


class Listing(NamedTuple):
    kind: ListedKind  # of the version that was listed
    items: tuple[msgspec.Raw, ...]  # each has what a list leaves out, apiVersion and kind, or not


class _ListedMetadata(KubeStruct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")
    remaining_item_count: int = 0  # 0 on the last page, and where the server does not know


class _ListedPage(KubeStruct, frozen=True):
    metadata: _ListedMetadata
    items: list[msgspec.Raw] | None  # Go writes an empty list as null, now and then


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


class Lister:
    """Asks one server, over one connection; ``tell`` hears how far it is."""

    def __init__(
        self, access: Access, tell: Callable[[str], None], patience: ClientTiming | None = None
    ) -> None:
        self.url = access.server.url
        self._access = access
        self._tell = tell
        self._patience = patience or ClientTiming()
        self._client = Client(access, self._patience)
        self._where = f"the Kubernetes API at {self.url}"

    def close(self) -> None:
        self._client.drop()
        self._access.close()

    def all_of(self, kind: ListedKind) -> Listing:
        """Return all objects of all namespaces; PodtallyError if they cannot be had.

        Of a custom resource that the server does not have there are none. Where it has another
        version of a resource only, that is listed: it is not to be taken for nothing.
        """
        try:
            return self._whole(kind)
        except ApiError as error:
            if not kind.group or error.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                self._refuse(kind, error.status)
            # RBAC is asked before it is looked whether there is such a resource, so a 403 may
            # be of one that is not there.
            return self._other_version(kind, error.status)

    def _other_version(self, kind: ListedKind, status: ApiStatus) -> Listing:
        versions = self._versions(kind)
        if kind.version in versions or not (versions or kind.custom):
            self._refuse(kind, status)
        if not versions:
            return Listing(kind, ())
        other = kind._replace(version=versions[0])
        try:
            return self._whole(other)
        except ApiError as error:
            self._refuse(other, error.status)

    def _versions(self, kind: ListedKind) -> tuple[str, ...]:
        """Return those in which the server has the resource, the one that it prefers first."""
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
        there = self._get(f"/apis/{kind.group}/{version}", _Resources)
        return any(resource.name == kind.plural for resource in there.resources or ())

    def _whole(self, kind: ListedKind) -> Listing:
        """List from the first page, until the last page is of the same version as the first.

        A token that has expired could go on with what is there now, but changes to the pages
        before it would be missed (API concepts, "Retrieving large results sets in chunks").
        """
        page_objects = self._patience.page_objects
        for _ in range(_LISTS - 1):
            try:
                return Listing(kind, self._pages(kind, page_objects))
            except ApiError as error:
                if error.code != HTTPStatus.GONE:
                    raise
                page_objects *= 4
        return Listing(kind, self._pages(kind, page_objects))

    def _pages(self, kind: ListedKind, page_objects: int) -> tuple[msgspec.Raw, ...]:
        items: list[msgspec.Raw] = []
        query, token = {"limit": str(page_objects)}, ""
        self._tell(f"lists {kind.plural}")
        while True:
            if token:
                query["continue"] = token
            page = self._get(f"{kind.path}?{urllib.parse.urlencode(query)}", _ListedPage)
            items += page.items or ()
            token = page.metadata.continue_
            if not token:
                return tuple(items)
            total = len(items) + page.metadata.remaining_item_count
            of = f" of {total}" if total > len(items) else ""
            self._tell(f"lists {kind.plural}: {len(items)}{of}")

    def _get(self, target: str, type_: type[T]) -> T:
        """ApiError that the server stays with; PodtallyError if there is no such answer."""
        try:
            return msgspec.json.decode(self._body(target), type=type_)
        except ContactError as error:
            raise PodtallyError(
                f"{self._where}: {error}", "check the server's address and CA, and the way to it"
            ) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise PodtallyError(
                f"{self._where}: what it answers to {target} cannot be decoded: {error}",
                "is it an API server? check its address",
            ) from None

    def _body(self, target: str) -> bytes:
        """Ask again where that may help: there is a load balancer, or another credential."""
        backoff = Backoff(self._patience, random.Random())
        renewed = False
        for attempt in range(1, _ATTEMPTS + 1):
            asked = 0.0
            try:
                return self._client.get(target, _JSON)
            except ApiError as error:
                if error.code == HTTPStatus.UNAUTHORIZED and not renewed and attempt < _ATTEMPTS:
                    renewed = True
                    self._access.renew(self._client.used)
                    continue
                if error.code not in _AGAIN or attempt == _ATTEMPTS:
                    raise
                asked = min(error.status.retry_after_seconds, _RETRY_AFTER_SECONDS)
            except BrokenError:
                if attempt == _ATTEMPTS:
                    raise
            time.sleep(asked + backoff.next("error", _WAIT_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def _refuse_versions(self, kind: ListedKind, error: ApiError) -> NoReturn:
        raise PodtallyError(
            f"{self._where} does not tell which versions of {kind.group} it has: {error}",
            "give the user the ClusterRole system:discovery",
        ) from None

    def _refuse(self, kind: ListedKind, status: ApiStatus) -> NoReturn:
        said = "".join(c if c.isprintable() else " " for c in status.message)
        what = f"{self._where} does not list {kind.plural}: {status.code} {said}"
        if status.code == HTTPStatus.UNAUTHORIZED:
            raise PodtallyError(what, "log in anew, or fix the user in the kubeconfig")
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

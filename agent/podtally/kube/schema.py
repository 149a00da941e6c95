# SPDX-License-Identifier: Apache-2.0
"""The JSON fields that API objects share, and decoders for lists and watches.

Only fields that are used are declared; the decoder skips the rest (``managedFields`` alone is
a third of a pod) without creating objects.
"""

from collections.abc import Callable
from datetime import datetime
from sys import intern
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from podtally.kube.model import ApiStatus, ListPage, WatchEvent

Labels = tuple[tuple[str, str], ...]
Ports = tuple[tuple[str, int, int], ...]  # name, IANA protocol, number


class KubeStruct(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """An object as it is sent. ``gc=False``: it is a tree, created by the thousand."""


class Controller(NamedTuple):
    """The owner reference with ``controller: true``."""

    kind: str
    name: str
    uid: str


class OwnerReference(KubeStruct, frozen=True):
    kind: str
    name: str
    uid: str
    controller: bool = False


class Metadata(KubeStruct, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class _HasMetadata(Protocol):
    @property
    def metadata(self) -> Metadata: ...


W = TypeVar("W", bound=_HasMetadata)


class ListMetadata(KubeStruct, frozen=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    remaining_item_count: int = 0  # 0 on the last page, and where the server does not know


class _List(KubeStruct, Generic[W], frozen=True):
    metadata: ListMetadata
    items: list[W] | None = None


class _WatchEventJson(KubeStruct, frozen=True):
    type: str
    object: msgspec.Raw


class _Bookmark(KubeStruct, frozen=True):
    metadata: Metadata


class _StatusDetails(KubeStruct, frozen=True):
    retry_after_seconds: float = 0.0


class _StatusJson(KubeStruct, frozen=True):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _StatusDetails | None = None


_EVENT = msgspec.json.Decoder(_WatchEventJson)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_STATUS = msgspec.json.Decoder(_StatusJson)


def list_decoder(wire: type[W], compact: Callable[[W], Any]) -> Callable[[bytes], ListPage]:
    """Return a decoder of lists of ``wire``, each item converted by ``compact``.

    The decoder raises msgspec.DecodeError.
    """
    decoder = msgspec.json.Decoder(_List[wire])  # type: ignore[valid-type]

    def decode(body: bytes) -> ListPage:
        page = decoder.decode(body)
        objects = [compact(item) for item in page.items or ()]
        return ListPage(objects, page.metadata.resource_version, page.metadata.continue_)

    return decode


def event_decoder(wire: type[W], compact: Callable[[W], Any]) -> Callable[[bytes], WatchEvent]:
    """Return a decoder of one line of a watch; it raises msgspec.DecodeError."""
    decoder = msgspec.json.Decoder(wire)

    def decode(line: bytes) -> WatchEvent:
        event = _EVENT.decode(line)
        if event.type == "ERROR":
            return WatchEvent(event.type, None, "", _status(event.object))
        if event.type == "BOOKMARK":
            version = _BOOKMARK.decode(event.object).metadata.resource_version
            return WatchEvent(event.type, None, version)
        item = decoder.decode(event.object)
        return WatchEvent(event.type, compact(item), item.metadata.resource_version)

    return decode


def _status(body: msgspec.Raw) -> ApiStatus:
    status = _STATUS.decode(body)
    wait = status.details.retry_after_seconds if status.details else 0.0
    return ApiStatus(status.code, status.reason, status.message, wait)


def seconds(moment: datetime | None) -> int:
    """Return a ``metav1.Time``, which has no fractions, in Unix seconds; 0 for None."""
    return int(moment.timestamp()) if moment else 0


def labels_of(metadata: Metadata) -> Labels:
    """Return the labels, sorted; equal labels of all objects share their strings."""
    labels = metadata.labels
    if not labels:
        return ()
    return tuple((intern(key), intern(labels[key])) for key in sorted(labels))


def controller_of(metadata: Metadata) -> Controller | None:
    for owner in metadata.owner_references or ():
        if owner.controller:
            return Controller(intern(owner.kind), intern(owner.name), intern(owner.uid))
    return None

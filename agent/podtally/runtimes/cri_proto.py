# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes the few messages of the container runtime interface that are used.

Field numbers are from k8s.io/cri-api ``pkg/apis/runtime/v1/api.proto``, wire types from the
protocol buffers encoding guide. Unknown fields are skipped, as required.
"""

from collections.abc import Iterator
from typing import NamedTuple

from podtally.runtimes.model import Labels

LABEL_UID = "io.kubernetes.pod.uid"
# Labels that the kubelet and the runtimes add to a pod's own: newPodLabels() in
# kubernetes pkg/kubelet/kuberuntime/labels.go; CRI-O and cri-dockerd add the last.
_ADDED_LABELS = frozenset(
    {
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        LABEL_UID,
        "io.kubernetes.container.name",
    }
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# Of ListPodSandboxRequest and of ListContainersRequest; of PodSandboxFilter; of ContainerFilter.
_FILTER = 1
_SANDBOX_FILTER_ID, _SANDBOX_FILTER_LABELS = 1, 3
_CONTAINER_FILTER_ID = 1
# Of ListPodSandboxResponse and of ListContainersResponse.
_ITEMS = 1


class MalformedError(ValueError):
    """Bytes that are not a valid message."""


class Sandbox(NamedTuple):
    """A pod's sandbox; a pod may have had several, numbered by ``attempt``."""

    id: str
    uid: str
    namespace: str
    name: str
    labels: Labels  # the pod's own
    created_ns: int  # wall time
    ready: bool
    attempt: int


class CriContainer(NamedTuple):
    id: str
    sandbox_id: str


class ProtoField(NamedTuple):
    number: int
    value: int | bytes


def fields(data: bytes) -> Iterator[ProtoField]:
    """Yield the fields of one message; fixed-width numbers as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _varint(data, at)
            yield ProtoField(number, value)
            continue
        if wire_type == _BYTES:
            size, at = _varint(data, at)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise MalformedError(f"wire type {wire_type}")
        if at + size > len(data):
            raise MalformedError(f"field {number} is cut short")
        yield ProtoField(number, data[at : at + size])
        at += size


def number_field(number: int, value: int) -> bytes:
    return _encoded(number << 3 | _VARINT) + _encoded(value)


def bytes_field(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _encoded(number << 3 | _BYTES) + _encoded(len(data)) + data


def map_field(number: int, entries: Labels) -> bytes:
    """Encode a map<string, string>: repeated messages of key and value."""
    return b"".join(
        bytes_field(number, bytes_field(1, key) + bytes_field(2, value)) for key, value in entries
    )


def list_sandboxes(uid: str = "", sandbox_id: str = "") -> bytes:
    """Encode a ListPodSandboxRequest; without an argument, for all pods."""
    wanted = bytes_field(_SANDBOX_FILTER_ID, sandbox_id) if sandbox_id else b""
    if uid:
        wanted += map_field(_SANDBOX_FILTER_LABELS, ((LABEL_UID, uid),))
    return bytes_field(_FILTER, wanted) if wanted else b""


def list_containers(container_id: str = "") -> bytes:
    """Encode a ListContainersRequest; without an argument, for all containers."""
    wanted = bytes_field(_CONTAINER_FILTER_ID, container_id)
    return bytes_field(_FILTER, wanted) if container_id else b""


def read_sandboxes(data: bytes) -> list[Sandbox]:
    """Decode a ListPodSandboxResponse; MalformedError."""
    return [_sandbox(_bytes(value)) for number, value in fields(data) if number == _ITEMS]


def read_containers(data: bytes) -> list[CriContainer]:
    """Decode a ListContainersResponse; MalformedError."""
    return [_container(_bytes(value)) for number, value in fields(data) if number == _ITEMS]


def _sandbox(data: bytes) -> Sandbox:
    """Decode a PodSandbox: id 1, metadata 2, state 3 (0: ready), created_at 4, labels 5."""
    sandbox_id, metadata, state, created_ns = "", b"", 0, 0
    labels: list[tuple[str, str]] = []
    for number, value in fields(data):
        match number:
            case 1:
                sandbox_id = _text(value)
            case 2:
                metadata = _bytes(value)
            case 3:
                state = _number(value)
            case 4:
                created_ns = _number(value)
            case 5:
                labels.append(_entry(_bytes(value)))
    name, uid, namespace, attempt = _metadata(metadata)
    own = tuple(sorted(entry for entry in labels if entry[0] not in _ADDED_LABELS))
    return Sandbox(sandbox_id, uid, namespace, name, own, created_ns, state == 0, attempt)


def _metadata(data: bytes) -> tuple[str, str, str, int]:
    """Decode PodSandboxMetadata: name 1, uid 2, namespace 3, attempt 4."""
    found = dict(fields(data))
    name, uid, namespace = (_text(found.get(number, b"")) for number in (1, 2, 3))
    return name, uid, namespace, _number(found.get(4, 0))


def _container(data: bytes) -> CriContainer:
    """Decode a Container: id 1, pod_sandbox_id 2."""
    found = dict(fields(data))
    return CriContainer(_text(found.get(1, b"")), _text(found.get(2, b"")))


def _entry(data: bytes) -> tuple[str, str]:
    found = dict(fields(data))
    return _text(found.get(1, b"")), _text(found.get(2, b""))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise MalformedError("a number instead of bytes")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode(errors="replace")


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise MalformedError("bytes instead of a number")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise MalformedError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

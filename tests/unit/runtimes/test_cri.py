# SPDX-License-Identifier: Apache-2.0
"""The container runtime's interface: messages, calls, and what goes wrong with them."""

import json
import logging
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podtally.runtimes import cri_proto as messages
from podtally.runtimes import grpc_unary
from podtally.runtimes.cri import CriClient
from podtally.runtimes.cri_proto import (
    CriContainer,
    MalformedError,
    ProtoField,
    Sandbox,
    bytes_field,
    fields,
    map_field,
    number_field,
)
from tests.unit.kube_support import BOUND_SECONDS
from tests.unit.runtimes.cri_server import Answer, serving

UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
ID = "0123456789abcdef" * 4
RECORDINGS = Path(__file__).parents[4] / "shared/k8s-recordings"
LIST = "/runtime.v1.RuntimeService/ListPodSandbox"

WEB = Sandbox(ID, UID, "shop", "web-0", (("app", "web"),), 1_795_252_986_838_449_667, True, 2)


def written(sandbox: Sandbox) -> bytes:
    """Encode a PodSandbox as a runtime does: without zeros, with unknown fields."""
    metadata = bytes_field(1, sandbox.name) + bytes_field(2, sandbox.uid)
    metadata += bytes_field(3, sandbox.namespace)
    if sandbox.attempt:
        metadata += number_field(4, sandbox.attempt)
    added = (("io.kubernetes.pod.name", sandbox.name), ("io.kubernetes.pod.uid", sandbox.uid))
    text = bytes_field(1, sandbox.id) + bytes_field(2, metadata)
    if not sandbox.ready:
        text += number_field(3, 1)
    text += number_field(4, sandbox.created_ns) + map_field(5, sandbox.labels + added)
    return text + map_field(6, (("kubernetes.io/config.source", "api"),)) + bytes_field(7, "runc")


def listed(*sandboxes: Sandbox) -> bytes:
    return b"".join(bytes_field(1, written(sandbox)) for sandbox in sandboxes)


# -- messages --------------------------------------------------------------------------------


def test_a_sandbox() -> None:
    other = WEB._replace(id="f" * 64, ready=False, attempt=0, labels=())
    assert messages.read_sandboxes(listed(WEB, other)) == [WEB, other]
    assert messages.read_sandboxes(b"") == []


def test_the_requests_are_what_the_api_defines() -> None:
    """Byte by byte, as protoc encodes them (api.proto of k8s.io/cri-api v0.29)."""
    assert messages.list_sandboxes() == b""
    assert messages.list_sandboxes(sandbox_id="ab") == b"\x0a\x04\x0a\x02ab"
    key = b"io.kubernetes.pod.uid"
    entry = b"\x0a\x15" + key + b"\x12\x03uid"
    label = b"\x1a" + bytes([len(entry)]) + entry
    assert messages.list_sandboxes(uid="uid") == b"\x0a" + bytes([len(label)]) + label
    assert messages.list_containers() == b""
    assert messages.list_containers("ab") == b"\x0a\x04\x0a\x02ab"


def test_a_container() -> None:
    one = bytes_field(1, "c") + bytes_field(2, "s") + bytes_field(3, b"") + number_field(6, 1)
    assert messages.read_containers(bytes_field(1, one)) == [CriContainer("c", "s")]


@given(
    st.lists(
        st.tuples(
            st.integers(1, (1 << 29) - 1),
            st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=300)),
        )
    )
)
def test_fields_are_decoded_as_encoded(written: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(
        number_field(n, v) if isinstance(v, int) else bytes_field(n, v) for n, v in written
    )
    assert list(fields(data)) == written


def test_fixed_width_numbers_are_skipped() -> None:
    data = b"\x09" + bytes(8) + b"\x15" + bytes(4) + number_field(3, 23)
    assert list(fields(data)) == [
        ProtoField(1, bytes(8)),
        ProtoField(2, bytes(4)),
        ProtoField(3, 23),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",
        b"\x08\x80",
        b"\x08" + b"\xff" * 10 + b"\x01",  # no number has more than ten bytes
        b"\x0b",  # groups went out of use before gRPC
        b"\x09\0\0",
        b"\x08\x01",  # a sandbox that is a number
        bytes_field(1, number_field(1, 1)),  # a number where its id belongs
        bytes_field(1, bytes_field(3, "ready")),
    ],
)
def test_invalid_messages_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        messages.read_sandboxes(data)


@given(st.binary(max_size=200))
def test_noise_raises_only_malformed_error(data: bytes) -> None:
    with suppress(MalformedError):
        messages.read_sandboxes(data)


def test_messages_of_a_real_runtime() -> None:
    """The same pods as crictl printed them: every name and label comes through."""
    path = RECORDINGS / "cri/node1.pods.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    items = json.loads(path.read_text())["items"]
    assert len(items) > 3
    data = b""
    for item in items:
        metadata = item["metadata"]
        text = bytes_field(1, metadata["name"]) + bytes_field(2, metadata["uid"])
        text += bytes_field(3, metadata["namespace"]) + number_field(4, metadata["attempt"])
        text = bytes_field(1, item["id"]) + bytes_field(2, text)
        text += number_field(3, int(item["state"] != "SANDBOX_READY"))
        text += number_field(4, int(item["createdAt"]))
        text += map_field(5, tuple(item["labels"].items()))
        text += map_field(6, tuple(item["annotations"].items()))
        data += bytes_field(1, text)
    for item, sandbox in zip(items, messages.read_sandboxes(data), strict=True):
        own = {k: v for k, v in item["labels"].items() if not k.startswith("io.kubernetes.pod.")}
        assert dict(sandbox.labels) == own
        assert sandbox.namespace == item["labels"]["io.kubernetes.pod.namespace"]
        assert sandbox.uid == item["labels"]["io.kubernetes.pod.uid"]
        assert (sandbox.name, sandbox.id) == (item["metadata"]["name"], item["id"])


# -- calls -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cri.sock"


def call(path: Path, seconds: float = BOUND_SECONDS) -> bytes:
    return grpc_unary.call(path, LIST, b"question", seconds)


def test_a_call(path: Path) -> None:
    with serving(path, lambda method, request: Answer((request + b"!",))) as server:
        assert call(path) == b"question!"
    assert server.asked == [(LIST, b"question")]


def test_an_empty_response_is_valid(path: Path) -> None:
    with serving(path, lambda *_: Answer((b"",))):
        assert call(path) == b""


def test_a_response_longer_than_an_http2_window(path: Path) -> None:
    long = bytes(range(256)) * 20_000
    with serving(path, lambda *_: Answer((long,))):
        assert call(path) == long


def test_an_endless_response_is_cut_off(path: Path) -> None:
    with (
        serving(path, lambda *_: Answer((bytes(17 << 20),))),
        pytest.raises(grpc_unary.CallError, match="more than"),
    ):
        call(path)


@pytest.mark.parametrize(
    ("answer", "words", "status"),
    [
        (Answer(trailers=(("grpc-status", "12"), ("grpc-message", "unknown%20service"))), "unknown service", 12),
        (Answer((b"half",), trailers=(("grpc-status", "14"),)), "gRPC status 14", 14),
        (Answer(trailers=(("grpc-status", "wrong"),)), "gRPC status wrong", -1),
        (Answer(status="404"), "HTTP status 404", -1),
        (Answer(), "without a message", -1),
        (Answer((b"a", b"b")), "not one message", -1),
        (Answer(raw=b"\1\0\0\0\1x"), "compressed", -1),
        (Answer(raw=b"\0\0\0\0\5x"), "not one message", -1),
        (Answer(reset=True), "reset", -1),
        (Answer(close=True), "closed without|Broken pipe|reset by peer", -1),
    ],
)  # fmt: skip
def test_invalid_responses(path: Path, answer: Answer, words: str, status: int) -> None:
    with (
        serving(path, lambda *_: answer),
        pytest.raises(grpc_unary.CallError, match=words) as caught,
    ):
        call(path)
    assert caught.value.status == status


def test_a_response_needs_a_status(path: Path) -> None:
    """A server that dies meanwhile ends the stream too."""
    with (
        serving(path, lambda *_: Answer((b"half",), trailers=None)),
        pytest.raises(grpc_unary.CallError, match="without a status"),
    ):
        call(path)


def test_a_hanging_server_times_out(path: Path) -> None:
    began = time.monotonic()
    with serving(path, lambda *_: Answer(hang=True)):
        with pytest.raises(grpc_unary.CallError, match=re.escape("within 0.2 s")):
            call(path, 0.2)
        assert 0.15 < time.monotonic() - began < BOUND_SECONDS


def test_no_server(path: Path) -> None:
    with pytest.raises(grpc_unary.CallError, match="No such file"):
        call(path)
    path.write_text("")
    with pytest.raises(grpc_unary.CallError, match="refused"):
        call(path)


# -- the runtime -----------------------------------------------------------------------------


def test_without_a_runtime_no_call_is_made(path: Path) -> None:
    cri = CriClient([path])
    assert cri.socket() is None
    assert cri.sandboxes() is None
    assert cri.errors == 0


def test_the_runtime_answers(path: Path) -> None:
    with serving(path, lambda *_: Answer((listed(WEB),))) as server:
        assert CriClient([path]).sandboxes(uid=UID) == [WEB]
    assert server.asked == [(LIST, messages.list_sandboxes(uid=UID))]


def test_failures_are_counted_and_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers = [
        Answer(trailers=(("grpc-status", "14"), ("grpc-message", "down"))),
        Answer(trailers=(("grpc-status", "14"), ("grpc-message", "down"))),
        Answer((b"\x0a\x7f",)),
        Answer((listed(WEB),)),
        Answer((listed(WEB),)),
    ]
    cri = CriClient([path])
    with serving(path, lambda *_: answers.pop(0)):
        assert [cri.sandboxes() for _ in range(5)] == [None, None, None, [WEB], [WEB]]
    assert cri.errors == 3
    result = [record.getMessage() for record in caplog.records]
    assert len(result) == 3
    assert "does not answer ListPodSandbox: down" in result[0]
    assert "invalid message" in result[1]
    assert "answers again" in result[2]


def test_a_containerd_without_cri_is_tried_again_only_after_a_restart(path: Path) -> None:
    unimplemented = Answer(trailers=(("grpc-status", "12"), ("grpc-message", "unknown service")))
    cri = CriClient([path])
    with serving(path, lambda *_: unimplemented) as server:
        assert cri.sandboxes() is None
        assert cri.socket() is None
        assert cri.sandboxes() is None
    assert len(server.asked) == 1
    assert cri.errors == 0
    with serving(path, lambda *_: Answer((listed(WEB),))):
        assert cri.sandboxes() == [WEB]


def test_the_next_socket_is_used_where_one_serves_no_pods(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "crio.sock"
    unimplemented = Answer(trailers=(("grpc-status", "12"),))
    with (
        serving(path, lambda *_: unimplemented),
        serving(other, lambda *_: Answer((listed(WEB),))),
    ):
        assert CriClient([path, other]).sandboxes() == [WEB]

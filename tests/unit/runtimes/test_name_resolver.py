# SPDX-License-Identifier: Apache-2.0
"""Which source is queried for a name, how often, and what is reported when."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podtally.runtimes.cgroups import CgroupOwner
from podtally.runtimes.cri import CriClient
from podtally.runtimes.cri_proto import Sandbox, bytes_field
from podtally.runtimes.engines import ContainerNames
from podtally.runtimes.name_resolver import ContainerNamed, NameFound, NameResolver, PodNamed
from podtally.runtimes.pod_logs import PodLogs
from tests.unit.kube_support import BOUND_SECONDS
from tests.unit.runtimes.cri_server import Answer, Respond, serving
from tests.unit.runtimes.test_cri import LIST, listed

UID = "1f6c9b1e-5d2a-4e1b-9c3d-{:012d}"
ID = "0123456789abcdef" * 4
SANDBOX_ID = "fedcba9876543210" * 4


def pod(number: int) -> CgroupOwner:
    return CgroupOwner("pod", UID.format(number))


def sandbox(number: int, **changes: object) -> Sandbox:
    made = Sandbox(
        f"{number:064d}", UID.format(number), "shop", f"web-{number}", (("app", "web"),), 1, True, 0
    )
    return made._replace(**changes)  # type: ignore[arg-type]


class ResolverHost:
    """A resolver over directories and a socket of the test, and what it reports."""

    def __init__(self, place: Path, *, cri: bool, timeout: float) -> None:
        self.place = place
        self.socket = place / "cri.sock"
        self.heard: queue.SimpleQueue[NameFound] = queue.SimpleQueue()
        self.resolver = NameResolver(
            self.heard.put,
            CriClient([self.socket], timeout) if cri else None,
            PodLogs(place / "pods"),
            ContainerNames({"docker": place / "docker", "podman": place / "podman"}),
        )

    def log_directory(self, number: int) -> None:
        (self.place / "pods" / f"shop_web-{number}_{UID.format(number)}").mkdir(parents=True)

    def hear(self, seconds: float = BOUND_SECONDS) -> NameFound:
        return self.heard.get(timeout=seconds)

    def silent(self, seconds: float = 0.3) -> bool:
        try:
            self.heard.get(timeout=seconds)
        except queue.Empty:
            return True
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ResolverHost]]:
    made: list[ResolverHost] = []

    def make(*, cri: bool = True, timeout: float = BOUND_SECONDS) -> ResolverHost:
        host = ResolverHost(tmp_path, cri=cri, timeout=timeout)
        made.append(host)
        host.resolver.start()
        return host

    yield make
    for host in made:
        host.resolver.stop()


Start = Callable[..., ResolverHost]


def test_the_logs_name_a_pod_at_once_and_the_runtime_adds_labels(start: Start) -> None:
    host = start()
    host.log_directory(1)
    with serving(host.socket, lambda *_: Answer((listed(sandbox(1)),))) as server:
        host.resolver.request(pod(1))
        assert host.hear() == PodNamed(UID.format(1), "shop", "web-1", (), "pod logs")
        assert host.hear() == PodNamed(UID.format(1), "shop", "web-1", (("app", "web"),), "cri")
        assert host.silent()  # and no source is queried again
    assert len(server.asked) == 1


def test_without_a_runtime_the_logs_are_enough(start: Start) -> None:
    host = start()
    host.resolver.request(pod(1))
    assert host.silent(0.1)
    host.log_directory(1)  # the kubelet is late
    assert isinstance(host.hear(), PodNamed)
    host.resolver.request(pod(2))
    assert host.silent()


def test_a_pod_that_the_runtime_lists_late_is_retried(start: Start) -> None:
    host = start()
    answers = [
        Answer((b"",)),
        Answer(trailers=(("grpc-status", "14"),)),
        Answer((listed(sandbox(1)),)),
    ]
    with serving(host.socket, lambda *_: answers.pop(0)):
        host.resolver.request(pod(1))
        assert host.hear() == PodNamed(UID.format(1), "shop", "web-1", (("app", "web"),), "cri")
    assert host.resolver.errors == 1


def test_many_pods_are_resolved_with_one_list(start: Start) -> None:
    """Requested while a call is in progress, so that they are due together."""
    host = start()
    everybody = listed(*(sandbox(number) for number in range(24)))
    asked, waiting = threading.Event(), threading.Event()

    def respond(_: str, request: bytes) -> Answer:
        if request:  # by one's UID
            asked.set()
            waiting.wait(BOUND_SECONDS)
        return Answer((everybody,))

    with serving(host.socket, respond) as server:
        host.resolver.request(pod(0))
        assert asked.wait(BOUND_SECONDS)
        for number in range(1, 24):
            host.resolver.request(pod(number))
        waiting.set()
        named = {event.name for event in (host.hear() for _ in range(24))}
    assert named == {f"web-{number}" for number in range(24)}
    assert [bool(request) for _, request in server.asked] == [True, False]


def test_the_ready_sandbox_counts_then_the_newest(start: Start) -> None:
    host = start()
    several = [
        sandbox(1, name="newest", created_ns=3, ready=False),
        sandbox(1, name="ready", created_ns=2),
        sandbox(1, name="oldest", created_ns=1),
    ]
    with serving(host.socket, lambda *_: Answer((listed(*several),))):
        host.resolver.request(pod(1))
        named = host.hear()
    assert named.name == "ready"


@pytest.mark.parametrize("kind", ["containerd", "cri-o", "container"])
def test_a_container_of_a_pod_without_a_uid_in_its_cgroup(start: Start, kind: str) -> None:
    host = start()
    container = bytes_field(1, bytes_field(1, ID) + bytes_field(2, SANDBOX_ID))
    bare = sandbox(1, id=SANDBOX_ID)

    def respond(method: str, _: bytes) -> Answer:
        return Answer((listed(bare) if method == LIST else container,))

    with serving(host.socket, respond):
        for each in (ID, SANDBOX_ID):  # a container in it, and the sandbox itself
            host.resolver.request(CgroupOwner(kind, each[:12], each))
            assert host.hear() == PodNamed(bare.uid, "shop", "web-1", bare.labels, "cri", each)


def test_docker_containers_are_not_looked_up_in_the_cri(start: Start) -> None:
    host = start()
    directory = host.place / "docker" / ID
    directory.mkdir(parents=True)
    (directory / "config.v2.json").write_text(json.dumps({"Name": "/web"}))
    with serving(host.socket, lambda *_: Answer((b"",))) as server:
        host.resolver.request(CgroupOwner("docker", ID[:12], ID))
        assert host.hear() == ContainerNamed(ID, "web", (), "docker")
        host.resolver.request(CgroupOwner("docker", SANDBOX_ID[:12], SANDBOX_ID))
        assert host.silent()
    assert server.asked == []


def test_owners_without_another_name_are_not_looked_up(start: Start) -> None:
    host = start()
    with serving(host.socket, lambda *_: Answer((b"",))) as server:
        host.resolver.request(CgroupOwner("systemd", "nginx.service"))
        host.resolver.request(CgroupOwner("lxc", "web"))
        assert host.silent(0.1)
    assert server.asked == []


@contextmanager
def hanging(host: ResolverHost) -> Iterator[None]:
    respond: Respond = lambda *_: Answer(hang=True)  # noqa: E731
    with serving(host.socket, respond):
        yield


def test_a_hanging_runtime_delays_the_logs_only_briefly(start: Start) -> None:
    host = start(timeout=1.0)
    with hanging(host):
        host.log_directory(1)
        host.resolver.request(pod(1))
        assert host.hear(0.9).name == "web-1"  # before the runtime is asked
        host.log_directory(2)
        host.resolver.request(pod(2))
        assert host.hear().name == "web-2"

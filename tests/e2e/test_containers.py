# SPDX-License-Identifier: Apache-2.0
"""Real containers: pods made through CRI, one as Docker makes it, one as systemd does."""

import json
import os
import queue
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from podtally.netlink.links import all_links
from podtally.netlink.netlink import Requests
from podtally.runtimes.cri import CriClient
from podtally.runtimes.engines import ContainerNames
from podtally.runtimes.name_resolver import ContainerNamed, NameResolver, PodNamed
from podtally.runtimes.pod_logs import PodLogs
from podtally.runtimes.process_finder import NamingEvent, ProcessFinder, ProcessFound
from tests.e2e.agents import Agent, Samples, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.cri_node import CriNode, PodSpec, cri_node, lacking
from tests.e2e.images import BLOB_BYTES
from tests.e2e.pods import ip
from tests.kernel.cgroups_support import hierarchies

UID = "1f6c9b1e-5d2a-4e1b-9c3d-{:012d}"
WEB = PodSpec(
    "shop",
    "web-0",
    UID.format(1),
    (("app", "web"), ("tier", "front")),
    f"/kubepods/besteffort/pod{UID.format(1)}",
)
CLIENT = PodSpec(
    "batch",
    "client-7f",
    UID.format(2),
    (("app", "client"),),
    f"/kubepods/burstable/pod{UID.format(2)}",
)
# As crictl makes one: its cgroup has no UID.
BARE = PodSpec("lab", "bare", UID.format(3), (("app", "bare"),))
DOCKER_ID = "5a3cd0fe" * 8
DOCKER_CGROUP = f"/docker/{DOCKER_ID}"
UNIT = f"podtally-demo-{os.getpid()}.service"
FETCH = 'while :; do wget -q -O /dev/null "$0"; sleep 0.1; done'
FETCHES = 3


@dataclass(frozen=True)
class Stage:
    """What runs on the node: a server, and four that fetch from it."""

    node: CriNode
    sandboxes: dict[str, str]  # by the pod's name


@pytest.fixture
def stage(bpffs: Path, tmp_path: Path) -> Iterator[Stage]:
    """A node of the test's own; the test, and what it starts, lives there."""
    missing = lacking()
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (scripts/setup --dev)")
    with cri_node(tmp_path / "node") as node:
        yield Stage(node, {})


def bring_up(stage: Stage) -> None:
    run_pod(stage, WEB, "httpd", "-f", "-p", "8080", "-h", "/www")
    url = f"http://{stage.node.address(stage.sandboxes[WEB.name])}:8080/blob"
    run_pod(stage, CLIENT, "sh", "-c", FETCH, url)
    run_pod(stage, BARE, "sh", "-c", FETCH, url)
    pid = stage.node.run_container(DOCKER_ID, DOCKER_CGROUP, "/bin/sh", "-c", FETCH, url)
    write_docker_config()
    connect(pid, "vethdocker", 7)
    pid = stage.node.run_unit(UNIT, "busybox", "sh", "-c", FETCH, url)
    connect(pid, "vethunit", 8)


def run_pod(stage: Stage, spec: PodSpec, *command: str) -> None:
    stage.sandboxes[spec.name] = stage.node.run_pod(spec)
    stage.node.start(spec, stage.sandboxes[spec.name], *command)


def write_docker_config() -> None:
    directory = Path("/var/lib/docker/containers", DOCKER_ID)
    directory.mkdir(parents=True, exist_ok=True)
    labels = {"com.docker.compose.project": "blog", "com.docker.compose.service": "db"}
    config = {"ID": DOCKER_ID, "Name": "/blog-db-1", "Config": {"Labels": labels}, "State": {}}
    (directory / "config.v2.json").write_text(json.dumps(config))


def connect(pid: int, link: str, number: int) -> None:
    """Plug a veth in after the process has started, as Docker does."""
    ip("link", "add", link, "type", "veth", "peer", "name", "eth0")
    ip("link", "set", "eth0", "netns", str(pid))
    ip("addr", "add", f"10.99.{number}.1/30", "dev", link)
    ip("link", "set", link, "up")
    within(pid, "addr", "add", f"10.99.{number}.2/30", "dev", "eth0")
    within(pid, "link", "set", "eth0", "up")
    within(pid, "route", "add", "default", "via", f"10.99.{number}.1")


def within(pid: int, *words: str) -> str:
    return subprocess.run(
        ["nsenter", "-t", str(pid), "--net", "ip", *words],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_runtime_reports_its_pods(stage: Stage) -> None:
    run_pod(stage, WEB, "sleep", "1000")
    run_pod(stage, BARE, "sleep", "1000")
    cri = CriClient()
    listed = cri.sandboxes()
    assert listed is not None
    assert {(s.id, s.uid, s.namespace, s.name, s.labels, s.ready, s.attempt) for s in listed} == {
        (stage.sandboxes[p.name], p.uid, p.namespace, p.name, p.labels, True, 0)
        for p in (WEB, BARE)
    }
    assert all(0 <= time.time_ns() - s.created_ns < 60_000_000_000 for s in listed)
    one = cri.sandboxes(uid=BARE.uid)
    assert one == cri.sandboxes(sandbox_id=stage.sandboxes[BARE.name])
    assert one is not None
    assert [s.name for s in one] == [BARE.name]
    containers = cri.containers()
    assert containers is not None
    assert sorted(c.sandbox_id for c in containers) == sorted(stage.sandboxes.values())
    assert cri.containers(containers[0].id) == [containers[0]]
    assert cri.containers(stage.sandboxes[WEB.name]) == []  # the sandbox is none
    assert cri.sandboxes(uid="nobody's") == []
    assert cri.errors == 0


def test_a_stopped_pod_is_still_reported(stage: Stage) -> None:
    run_pod(stage, WEB, "sleep", "1000")
    stage.node.call("StopPodSandbox", b"\x0a\x40" + stage.sandboxes[WEB.name].encode())
    listed = CriClient().sandboxes(uid=WEB.uid)
    assert listed is not None
    assert [(s.name, s.ready) for s in listed] == [(WEB.name, False)]


def test_their_names_are_found_without_an_api_server(stage: Stage) -> None:
    events: queue.SimpleQueue[NamingEvent] = queue.SimpleQueue()
    finder = ProcessFinder(
        events.put, NameResolver(events.put, CriClient(), PodLogs(), ContainerNames())
    )
    finder.start()
    requests = Requests()
    try:
        bring_up(stage)
        for link in all_links(requests):
            if link.kind == "veth":
                finder.look(link.ifindex, link.peer_nsid)
        heard = listen(events, seconds=3)
    finally:
        finder.stop()
        requests.close()
    best = {e.ifindex: e.owner for e in heard if isinstance(e, ProcessFound)}
    bare = {e.container for e in heard if isinstance(e, PodNamed) and e.container}
    assert {(f.kind, f.name) for f in best.values() if f.kind != "containerd"} == {
        ("pod", WEB.uid),
        ("pod", CLIENT.uid),
        ("docker", DOCKER_ID[:12]),
        ("systemd", UNIT),
    }
    assert bare == {f.container for f in best.values() if f.kind == "containerd"}
    assert len(bare) == 1
    named = [e for e in heard if isinstance(e, PodNamed)]
    assert {(e.uid, e.namespace, e.name, e.labels) for e in named if e.source == "cri"} == {
        (p.uid, p.namespace, p.name, p.labels) for p in (WEB, CLIENT, BARE)
    }
    assert {(e.uid, e.namespace, e.name) for e in named if e.source == "pod logs"} == {
        (p.uid, p.namespace, p.name) for p in (WEB, CLIENT)
    }
    (docker,) = [e for e in heard if isinstance(e, ContainerNamed)]
    assert (docker.container, docker.name) == (DOCKER_ID, "blog-db-1")
    assert dict(docker.labels)["com.docker.compose.service"] == "db"


def listen(events: "queue.SimpleQueue[NamingEvent]", seconds: float) -> list[NamingEvent]:
    """All that is heard until one second of silence."""
    heard: list[NamingEvent] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            heard.append(events.get(timeout=1))
        except queue.Empty:
            break
    return heard


def test_the_agent_names_their_traffic(stage: Stage, make_agent: MakeAgent) -> None:
    """Of a pod that appears under the agent's eyes every byte has its name."""
    agent = make_agent("--interfaces", "veth*")
    agent.start()
    agent.wait_ready()
    bring_up(stage)
    expected = {
        (WEB.namespace, WEB.name),
        (CLIENT.namespace, CLIENT.name),
        (BARE.namespace, BARE.name),
        ("docker", "blog-db-1"),
        ("systemd", UNIT),
    }
    samples = wait_for_traffic(agent, expected)
    strangers = {
        (labels["namespace"], labels["pod"]): number
        for (name, listed), number in samples.items()
        if name == "podtally_pod_bytes_total" and number
        for labels in [dict(listed)]
        if (labels["namespace"], labels["pod"]) not in expected
    }
    assert strangers == {}, agent.said()
    assert_labels(agent)
    clients = expected - {(WEB.namespace, WEB.name)}
    for namespace, pod in clients:
        assert bytes_of(samples, namespace, pod, "ingress") > FETCHES * BLOB_BYTES
    # the server's side of the same bytes, from all four of them
    assert bytes_of(samples, WEB.namespace, WEB.name, "egress") > 4 * FETCHES * BLOB_BYTES


def assert_labels(agent: Agent) -> None:
    """They come from the runtime, and are what policies choose pods by."""
    status, text = agent.get("/api/v1/endpoints")
    assert status == 200
    rows = {row["pod"]: row for row in json.loads(text)["endpoints"]}
    for spec in (WEB, CLIENT, BARE):
        assert rows[spec.name]["labels"] == dict(spec.labels)
        assert rows[spec.name]["source"] == "cri"
        assert rows[spec.name]["uid"] == spec.uid
    assert rows["blog-db-1"]["labels"]["com.docker.compose.service"] == "db"
    assert rows[UNIT]["source"] == "systemd"


def wait_for_traffic(agent: Agent, expected: set[tuple[str, str]]) -> Samples:
    end = time.monotonic() + 20
    while True:
        samples = agent.samples()
        short = [
            each
            for each in expected
            if bytes_of(samples, *each, "ingress") + bytes_of(samples, *each, "egress")
            < 2 * FETCHES * BLOB_BYTES
        ]
        if not short:
            return samples
        assert time.monotonic() < end, f"{short}: {pods_of(samples)}\n{agent.said()}"
        time.sleep(0.1)


def bytes_of(samples: Samples, namespace: str, pod: str, direction: str) -> float:
    return value(
        samples, "podtally_pod_bytes_total", namespace=namespace, pod=pod, direction=direction
    )


def pods_of(samples: Samples) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        labels: v for (name, labels), v in samples.items() if name == "podtally_pod_bytes_total"
    }


def test_nothing_is_left(tmp_path: Path, bpffs: Path) -> None:
    """Also after a failure: no process, no cgroup, no mount, no interface."""
    if missing := lacking():
        pytest.skip(f"needs {', '.join(missing)} (scripts/setup --dev)")
    mounts = Path("/proc/thread-self/mountinfo").read_text()
    place = os.getcwd()
    spec = PodSpec("lab", "left", UID.format(9), (), f"/podtally-left/pod{UID.format(9)}")

    def fail() -> None:
        with cri_node(tmp_path / "node") as node:
            node.start(spec, node.run_pod(spec), "sleep", "1000")
            node.run_unit(UNIT, "sleep", "1000")
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fail()
    assert Path("/proc/thread-self/mountinfo").read_text() == mounts
    assert os.getcwd() == place
    for hierarchy in hierarchies():
        assert not (hierarchy / "podtally-left").exists()
        assert not (hierarchy / "system.slice" / UNIT).exists()
    inside = f"pod{UID.format(9)}"
    texts = [_cgroup_of(entry) for entry in filter(str.isdecimal, os.listdir("/proc"))]
    assert not [text for text in texts if inside in text or UNIT in text]


def _cgroup_of(pid: str) -> str:
    try:
        return Path("/proc", pid, "cgroup").read_text()
    except OSError:
        return ""

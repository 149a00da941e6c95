# SPDX-License-Identifier: Apache-2.0
"""Finds the owner of an interface, with real processes in real namespaces and cgroups."""

import os
import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podtally.netlink.links import all_links
from podtally.netlink.model import Link
from podtally.netlink.netlink import Requests
from podtally.runtimes.cgroups import CgroupOwner
from podtally.runtimes.engines import ContainerNames
from podtally.runtimes.name_resolver import NameResolver, PodNamed
from podtally.runtimes.pod_logs import PodLogs
from podtally.runtimes.process_finder import ProcessFinder, ProcessFound
from podtally.runtimes.processes import ProcessNamespaces, open_process, owner_of_process
from tests.kernel.cgroups_support import hierarchies, make_cgroup, own_cgroups
from tests.kernel.links_support import ifindex, named_netns, own_netns, sh
from tests.patience import deadline

UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
OTHER_UID = "2f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
# Below a parent of the test's own, so that nothing of the machine's is touched.
PARENT = f"/podtally-{os.getpid()}"
POD = f"{PARENT}/kubepods/besteffort/pod{UID}"
OTHER_POD = f"{PARENT}/kubepods/besteffort/pod{OTHER_UID}"
UNIT = f"{PARENT}/system.slice/demo.service"


@dataclass
class Host:
    """A namespace with a finder."""

    place: Path
    stack: ExitStack
    cgroups: list[str]
    heard: "queue.SimpleQueue[object]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        logs, none = PodLogs(self.place / "pods"), self.place / "none"
        resolver = NameResolver(
            self.heard.put, None, logs, ContainerNames({"docker": none, "podman": none})
        )
        self.finder = ProcessFinder(self.heard.put, resolver)
        self.requests = Requests()
        self.stack.callback(self.requests.close)

    def process(self, cgroup: str, *wrapper: str, until: str = "sleep") -> int:
        """A process in a cgroup, by default with a network namespace of its own.

        Returns once it runs ``until``, which is in the end to sleep.
        """
        script = ""
        if cgroup:
            self.cgroups.append(cgroup)
            for hierarchy in hierarchies():
                make_cgroup(hierarchy, cgroup)
                script += f"echo $$ > {hierarchy}{cgroup}/cgroup.procs && "
        words = [*(wrapper or ("unshare", "--net")), "sleep", "1000"]
        process = self.stack.enter_context(
            subprocess.Popen(["sh", "-c", f'{script}exec "$@"', "sh", *words])
        )
        self.stack.callback(process.kill)
        end = deadline(60)
        while Path(f"/proc/{process.pid}/comm").read_text() != f"{until}\n":
            assert time.monotonic() < end
            time.sleep(0.002)
        return process.pid

    def plug(self, link: str, netns: str, peer: str = "eth0") -> Link:
        """A veth into a namespace, by a process or a name."""
        sh(f"ip link add {link} type veth peer name {peer} netns {netns}")
        return self.link(link)

    def link(self, name: str) -> Link:
        (found,) = [link for link in all_links(self.requests) if link.name == name]
        return found

    def hear(self, seconds: float = 3) -> object:
        return self.heard.get(timeout=seconds)

    def process_found(self, seconds: float = 3) -> ProcessFound:
        event = self.hear(seconds)
        assert isinstance(event, ProcessFound)
        return event

    def silent(self, seconds: float) -> bool:
        try:
            self.heard.get(timeout=seconds)
        except queue.Empty:
            return True
        return False


def late(seconds: float) -> tuple[str, ...]:
    """Return a command that enters a network namespace of its own after a while."""
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox (scripts/setup --dev)")
    return ("busybox", "sh", "-c", f'sleep {seconds}; exec unshare --net "$@"', "sh")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_netns(), own_cgroups() as cgroups, ExitStack() as stack:
        cgroups.append(PARENT)
        made = Host(tmp_path, stack, cgroups)
        made.finder.start()
        stack.callback(made.finder.stop)
        yield made


@pytest.fixture
def netns() -> Iterator[str]:
    with named_netns("ptl-finder"):
        yield "ptl-finder"


def test_a_process_older_than_its_interface(host: Host) -> None:
    pid = host.process(POD)
    link = host.plug("ptl0", str(pid))
    before_ns = time.monotonic_ns()
    host.finder.look(link.ifindex, link.peer_nsid)
    event = host.process_found()
    assert event[:3] == (link.ifindex, CgroupOwner("pod", UID), pid)
    assert before_ns < event.at_ns < time.monotonic_ns()
    assert host.silent(0.2)  # found is found


def test_a_short_process_younger_than_its_interface(host: Host, netns: str) -> None:
    """A pod of 200 ms that starts 50 ms after its interface."""
    link = host.plug("ptl0", netns)
    host.finder.look(link.ifindex, link.peer_nsid)
    time.sleep(0.05)
    pid = host.process(POD, "nsenter", f"--net=/run/netns/{netns}")
    event = host.process_found(0.2)
    assert event[:3] == (link.ifindex, CgroupOwner("pod", UID), pid)


def test_a_process_that_enters_its_namespace_after_a_walk(host: Host) -> None:
    """Runtimes clone first, and unshare then."""
    walked = host.process(POD)
    first = host.plug("ptl0", str(walked))
    pid = host.process(OTHER_POD, *late(0.3), until="busybox")
    host.finder.look(first.ifindex, first.peer_nsid)
    assert host.process_found().owner.name == UID  # so the other has been seen, still outside
    end = deadline(60)
    ours = os.stat("/proc/thread-self/ns/net").st_ino
    while os.stat(f"/proc/{pid}/ns/net").st_ino == ours:
        assert time.monotonic() < end
    second = host.plug("ptl1", str(pid))
    host.finder.look(second.ifindex, second.peer_nsid)
    assert host.process_found(0.5)[:3] == (second.ifindex, CgroupOwner("pod", OTHER_UID), pid)


def test_a_unit_is_reported_while_a_pod_may_still_come(host: Host, netns: str) -> None:
    enter = ("nsenter", f"--net=/run/netns/{netns}")
    unit = host.process(UNIT, *enter)
    link = host.plug("ptl0", netns)
    host.finder.look(link.ifindex, link.peer_nsid)
    assert host.process_found()[:3] == (link.ifindex, CgroupOwner("systemd", "demo.service"), unit)
    assert host.silent(0.1)
    pod = host.process(POD, *enter)
    assert host.process_found()[:3] == (link.ifindex, CgroupOwner("pod", UID), pod)


def test_the_more_specific_owner_is_reported_last(host: Host, netns: str) -> None:
    enter = ("nsenter", f"--net=/run/netns/{netns}")
    host.process(POD, *enter)
    host.process(UNIT, *enter)
    link = host.plug("ptl0", netns)
    host.finder.look(link.ifindex, link.peer_nsid)
    heard = [host.process_found()]
    while heard[-1].owner.kind != "pod":
        heard.append(host.process_found())
    assert len(heard) <= 2
    assert host.silent(0.2)


def test_several_interfaces_of_one_pod_and_one_later(host: Host) -> None:
    pid = host.process(POD)
    links = [host.plug(f"ptl{i}", str(pid), f"eth{i}") for i in range(3)]
    for link in links[:2]:
        host.finder.look(link.ifindex, link.peer_nsid)
    assert {host.process_found().ifindex for _ in range(2)} == {link.ifindex for link in links[:2]}
    host.finder.look(links[2].ifindex, links[2].peer_nsid)
    assert host.process_found(0.1)[:3] == (links[2].ifindex, CgroupOwner("pod", UID), pid)


def test_a_namespace_without_processes(host: Host, netns: str) -> None:
    link = host.plug("ptl0", netns)
    host.finder.look(link.ifindex, link.peer_nsid)
    assert host.silent(0.3)


@contextmanager
def living_in(cgroup: str) -> Iterator[None]:
    """Let this process be in a cgroup (of v2, or of systemd's hierarchy) for a while."""
    path = next(p for p in reversed(hierarchies()) if p.name in ("unified", "systemd", "cgroup"))
    make_cgroup(path, cgroup)
    before = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    (back,) = [words[2] for words in before if words[1] == "" or path.name in words[1]][-1:]
    (path / cgroup.strip("/") / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (path / back.strip("/") / "cgroup.procs").write_text(str(os.getpid()))


def test_our_own_cgroup_is_ignored(host: Host) -> None:
    """We are in a unit or a session, and so may be what was started beside us."""
    host.cgroups.append(UNIT)
    with living_in(UNIT):
        host.finder.stop()
        host = Host(host.place, host.stack, host.cgroups)
        host.finder.start()
        host.stack.callback(host.finder.stop)
        ours, other = host.process(""), host.process(OTHER_POD)
        for number, pid in enumerate((ours, other)):
            link = host.plug(f"ptl{number}", str(pid))
            host.finder.look(link.ifindex, link.peer_nsid)
        assert host.process_found().pid == other
        assert host.silent(0.3)


def test_forgotten_interfaces_are_not_reported(host: Host, netns: str) -> None:
    link = host.plug("ptl0", netns)
    host.finder.look(link.ifindex, link.peer_nsid)
    host.finder.forget(link.ifindex)
    host.process(POD, "nsenter", f"--net=/run/netns/{netns}")
    assert host.silent(0.5)


def test_an_id_reused_by_another_namespace(host: Host, netns: str) -> None:
    """An interface of a removed namespace is not named by the new holder of its id."""
    link = host.plug("ptl0", str(host.process(POD)))
    other = host.plug("ptl1", netns)
    host.finder.look(other.ifindex, link.peer_nsid)
    assert host.silent(0.3)
    host.finder.look(ifindex("lo"), link.peer_nsid)
    host.finder.look(999_999, link.peer_nsid)
    assert host.silent(0.3)


def test_a_found_pod_is_named(host: Host) -> None:
    link = host.plug("ptl0", str(host.process(POD)))
    host.finder.look(link.ifindex, link.peer_nsid)
    host.process_found()
    (host.place / "pods" / f"shop_web-0_{UID}").mkdir(parents=True)  # the kubelet is late
    assert host.hear() == PodNamed(UID, "shop", "web-0", (), "pod logs")


def test_walks_end_when_all_are_found(host: Host) -> None:
    link = host.plug("ptl0", str(host.process(POD)))
    host.finder.look(link.ifindex, link.peer_nsid)
    host.process_found()
    time.sleep(0.1)
    walks = host.finder.walks
    assert 1 <= walks < 10
    time.sleep(0.5)
    assert host.finder.walks == walks


def test_a_process_that_has_ended(host: Host) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with open_process(process.pid) as inhabitant:
        assert inhabitant is None
    assert owner_of_process(process.pid) is None


IMPERSONATIONS = (
    "app.slice/ssh.service",
    f"app.slice/pod{UID}/x",
    f"docker-{'a' * 64}.scope",
    "lxc.payload.victim",
    f"kubepods/besteffort/pod{UID}/{'a' * 64}",
)


@pytest.mark.parametrize("name", IMPERSONATIONS)
def test_cgroups_of_a_user_are_the_users(host: Host, name: str) -> None:
    """Below the user's manager whatever its name; elsewhere by the cgroup's ownership."""
    manager = f"{PARENT}/user.slice/user-1000.slice/user@1000.service"
    assert owner_of_process(host.process(f"{manager}/{name}")) == CgroupOwner(
        "systemd", "user@1000.service"
    )
    delegated = f"{PARENT}/delegated"
    host.cgroups.append(delegated)
    for hierarchy in hierarchies():
        make_cgroup(hierarchy, delegated)
        os.chown(hierarchy / delegated.lstrip("/"), 1000, -1)
    assert owner_of_process(host.process(f"{delegated}/{name}")) is None


def test_only_a_full_walk_checks_old_processes_again(host: Host) -> None:
    """A process much older than a runtime's first that changes its namespace."""
    pid = host.process(POD, *late(2.5), until="busybox")
    time.sleep(2.1)
    population = ProcessNamespaces()
    population.walk(full=True)
    assert all(pid not in pids for pids in population.namespaces().values())
    time.sleep(0.8)
    population.walk(full=False)
    assert all(pid not in pids for pids in population.namespaces().values())
    population.walk(full=True)
    assert [pids for pids in population.namespaces().values() if pid in pids] == [[pid]]

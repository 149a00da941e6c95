# SPDX-License-Identifier: Apache-2.0
"""A node of a cluster: pods with links, addresses, cgroups, processes and objects in an API.

Neighbours are set by hand and bridge ports flood nothing, so that a pod gets only what is
sent to it. Without ARP on eth0 the kernel sends no reports on multicast groups by itself, which
would go before anybody can count them. So a pod's own counts are whole.
"""

import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.apiserver.server import ApiServer
from tests.e2e import kube_objects as objects
from tests.e2e import pods
from tests.e2e.pod_host import PodHost, pod_host
from tests.e2e.pod_life import Errand, Peer

SINKS = (1, 2, 3)  # the last parts of addresses
POOL = tuple(range(101, 121))
KUBEPODS = ("kubepods", "besteffort")


class PodSpec(NamedTuple):
    """A pod; ``number`` is the last part of its addresses."""

    name: str
    number: int
    six: bool  # it has an IPv6 address as well, and prefers that
    uid: str
    container: str
    has_object: bool = True  # False: the API never reports it

    @property
    def link(self) -> str:
        return f"ptl-{self.name}"

    @property
    def netns(self) -> str:
        return f"cni-{self.uid}"  # a name that containerd makes up

    @property
    def addresses(self) -> tuple[str, ...]:
        return (ipv4(self.number), ipv6(self.number)) if self.six else (ipv4(self.number),)

    @property
    def identity(self) -> objects.Identity:
        return objects.Identity(self.name, self.uid, self.container, self.addresses)


def spec(name: str, number: int, six: bool = False, has_object: bool = True) -> PodSpec:
    container = uuid.uuid4().hex + uuid.uuid4().hex
    return PodSpec(name, number, six, str(uuid.uuid4()), container, has_object)


def ipv4(number: int) -> str:
    return f"10.99.0.{number}"


def ipv6(number: int) -> str:
    return f"2001:db8::{number:x}"


def mac(number: int) -> str:
    """Made of the address, as the CNI's bridge plugin did: who gets it again gets all of it."""
    return f"0a:58:0a:63:00:{number:02x}"


@dataclass
class KubeNode:
    """Everything made here is undone by ``kube_node``."""

    node: pods.Node
    api: ApiServer
    host: PodHost
    cgroups: Path
    present: dict[str, PodSpec] = field(default_factory=dict)
    _objects: dict[str, objects.Object] = field(default_factory=dict)

    def make(self, pod: PodSpec) -> None:
        """What a runtime does before it starts anything: namespace, link, addresses, cgroup."""
        self.present[pod.name] = pod
        _batch(
            f"netns add {pod.netns}",
            f"link add {pod.link} type veth peer name eth0 address {mac(pod.number)}"
            f" netns {pod.netns}",
            f"link set {pod.link} master {pods.BRIDGE} addrgenmode none up",
            f"link set {pod.link} type bridge_slave flood off mcast_flood off bcast_flood off",
        )
        _batch(
            "link set eth0 addrgenmode none arp off",
            f"addr add {ipv4(pod.number)}/24 dev eth0",
            *([f"addr add {ipv6(pod.number)}/64 dev eth0 nodad"] if pod.six else []),
            "link set lo up",
            "link set eth0 up",
            *_neighbours(pod),
            netns=pod.netns,
        )
        _cgroup(self.cgroups, pod).mkdir(parents=True)

    def pin(self, pod: PodSpec) -> None:
        """Let the bridge know where a pod is that never sends first."""
        words = ("fdb", "replace", mac(pod.number), "dev", pod.link, "master", "static")
        subprocess.run(("bridge", *words), check=True)

    def start(self, errand: Errand) -> None:
        self.host.start(errand)

    def errand(self, pod: PodSpec, **more: object) -> Errand:
        cgroup = str(_cgroup(self.cgroups, pod))
        return Errand(pod.name, cgroup, f"/run/netns/{pod.netns}", **more)  # type: ignore[arg-type]

    def remove(self, pod: PodSpec) -> None:
        """As CNI's DEL does: the link first, so its address is free; its process has ended."""
        _batch(f"link del {pod.link}", f"netns del {pod.netns}")
        _remove_cgroup(self.cgroups, pod)
        del self.present[pod.name]

    # -- what the API gets -----------------------------------------------------------------

    def report_admitted(self, pod: PodSpec) -> None:
        self._tell(pod, objects.admitted(pod.identity))

    def report_running(self, pod: PodSpec) -> None:
        self._tell(pod, objects.running(self._objects[pod.name], pod.identity))

    def report_ended(self, pod: PodSpec) -> None:
        self._tell(pod, objects.ended(self._objects[pod.name], pod.identity))

    def report_deleted(self, pod: PodSpec) -> None:
        del self._objects[pod.name]
        if pod.has_object:
            self.api.delete("pods", objects.NAMESPACE, pod.name)

    def _tell(self, pod: PodSpec, item: objects.Object) -> None:
        self._objects[pod.name] = item
        if pod.has_object:
            self.api.put("pods", item)


def peer_of(pod: PodSpec, six: bool) -> Peer:
    return Peer(pod.name, ipv6(pod.number) if six else ipv4(pod.number))


@contextmanager
def kube_node() -> Iterator[KubeNode]:
    """A node without pods, in a namespace of its own, for the calling thread."""
    cgroups, left = cgroup2_mount(), dict[str, PodSpec]()
    try:
        with pods.node() as plain, ApiServer() as api, pod_host() as host:
            api.put("nodes", objects.node())
            api.put("namespaces", objects.namespace())
            try:
                yield KubeNode(plain, api, host, cgroups, left)
            finally:
                names = [f"netns del {pod.netns}" for pod in left.values()]
                with suppress(AssertionError):
                    _batch(*names, force=True)
    finally:  # the processes have ended with the host, so the cgroups are empty
        for pod in left.values():
            _remove_cgroup(cgroups, pod)
        for depth in range(len(KUBEPODS), 0, -1):
            with suppress(OSError):  # another's pods are in it
                cgroups.joinpath(*KUBEPODS[:depth]).rmdir()


def kubeconfig(path: Path, url: str) -> Path:
    path.write_text(f"""\
apiVersion: v1
kind: Config
current-context: soak
clusters: [{{name: soak, cluster: {{server: "{url}"}}}}]
users: [{{name: agent, user: {{token: soak}}}}]
contexts: [{{name: soak, context: {{cluster: soak, user: agent}}}}]
""")
    return path


def cgroup2_mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """AssertionError if there is none."""
    for line in mountinfo.read_text().splitlines():
        words, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return Path(words.split()[4])
    raise AssertionError("cgroup v2 is not mounted")


def _cgroup(root: Path, pod: PodSpec) -> Path:
    return root.joinpath(*KUBEPODS, f"pod{pod.uid}", pod.container)


def _remove_cgroup(root: Path, pod: PodSpec) -> None:
    path = _cgroup(root, pod)
    for each in (path, path.parent):
        with suppress(FileNotFoundError):
            each.rmdir()


def _neighbours(pod: PodSpec) -> list[str]:
    return [
        f"neigh add {address} lladdr {mac(number)} dev eth0 nud permanent"
        for number in (*SINKS, *POOL)
        if number != pod.number
        for address in ((ipv4(number), ipv6(number)) if pod.six else (ipv4(number),))
    ]


def _batch(*lines: str, netns: str = "", force: bool = False) -> None:
    """Run commands of ``ip`` in one process."""
    options: Sequence[str] = ("-n", netns) if netns else ()
    if force:
        options = (*options, "-force")
    done = subprocess.run(
        ["ip", *options, "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ip {lines}: {done.stderr.strip()}"

# SPDX-License-Identifier: Apache-2.0
"""A node with a container runtime of its own: containerd, runc and CNI, in namespaces of the test's.

Mounts, network and processes are private, so the paths are the real ones (/run/containerd,
/run/netns, /var/log/pods) and nothing there is the host's. The processes are in a PID
namespace, which ends with all of them. Only cgroups are the host's: those made here are
removed by name.
"""

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from podtally.runtimes import grpc_unary
from podtally.runtimes.cri_proto import bytes_field, fields, map_field, number_field
from podtally.runtimes.model import Labels
from tests.e2e.images import write_bundle, write_image
from tests.kernel.cgroups_support import hierarchies, make_cgroup, own_cgroups
from tests.kernel.links_support import own_netns

BINARIES = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox", "nsenter", "unshare")
CNI = next(filter(Path.exists, map(Path, ("/usr/lib/cni", "/opt/cni/bin"))), Path("/usr/lib/cni"))
PLUGINS = ("bridge", "host-local", "loopback")
SOCKET = Path("/run/containerd/containerd.sock")
IMAGE = "podtally.test/box:1"
PRIVATE_DIRECTORIES = ("/run", "/var/lib", "/var/log")
READY_SECONDS = 120.0
CALL_SECONDS = 60.0

_CLONE_FS = 0x00000200
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")

CONTAINERD_CONFIG = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
[debug]
level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "/run/cni"
"""
CNI_CONFIG = {
    "cniVersion": "0.4.0",
    "name": "podtally-test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": "10.99.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


def lacking() -> list[str]:
    """What this machine lacks to be such a node."""
    binaries = [name for name in BINARIES if shutil.which(name) is None]
    return binaries + [str(CNI / name) for name in PLUGINS if not (CNI / name).exists()]


@dataclass(frozen=True)
class PodSpec:
    """What a kubelet asks the runtime for a pod."""

    namespace: str
    name: str
    uid: str
    labels: Labels = ()
    cgroup_parent: str = ""

    @property
    def log_directory(self) -> str:
        return f"/var/log/pods/{self.namespace}_{self.name}_{self.uid}"

    def config(self) -> bytes:
        """PodSandboxConfig; numbers as in ``podtally.runtimes.cri_proto``' api.proto."""
        metadata = (self.name, self.uid, self.namespace)
        added = (
            ("io.kubernetes.pod.name", self.name),
            ("io.kubernetes.pod.namespace", self.namespace),
            ("io.kubernetes.pod.uid", self.uid),
        )
        own_pid_namespace = number_field(2, 1)
        linux = bytes_field(1, self.cgroup_parent) if self.cgroup_parent else b""
        linux += bytes_field(2, bytes_field(1, own_pid_namespace))
        return (
            bytes_field(1, b"".join(bytes_field(1 + i, part) for i, part in enumerate(metadata)))
            + bytes_field(2, self.name)
            + bytes_field(3, self.log_directory)
            + map_field(6, self.labels + added)
            + map_field(7, (("kubernetes.io/config.source", "api"),))
            + bytes_field(8, linux)
        )


@dataclass
class CriNode:
    """Runs pods through CRI, and containers and units without it."""

    place: Path
    init: int  # the first process of its PID namespace, by the host's number
    cgroups: list[str]  # to be removed at the end
    started: list[subprocess.Popen[bytes]]  # end with ``init``

    def call(self, method: str, request: bytes, service: str = "RuntimeService") -> bytes:
        return grpc_unary.call(SOCKET, f"/runtime.v1.{service}/{method}", request, CALL_SECONDS)

    def run_pod(self, spec: PodSpec) -> str:
        """RunPodSandbox as the kubelet does it, the log directory first; returns the sandbox's id."""
        Path(spec.log_directory).mkdir(parents=True)
        if spec.cgroup_parent:
            self.cgroups.append(spec.cgroup_parent)
        sandbox = _text(self.call("RunPodSandbox", bytes_field(1, spec.config())))
        if not spec.cgroup_parent:
            self.cgroups.append(f"/k8s.io/{sandbox}")
        return sandbox

    def start(self, spec: PodSpec, sandbox: str, *command: str) -> str:
        """CreateContainer and StartContainer; returns the container's id."""
        config = (
            bytes_field(1, bytes_field(1, "main"))
            + bytes_field(2, bytes_field(1, IMAGE))
            + b"".join(bytes_field(3, word) for word in command)
            + bytes_field(11, "main.log")
            + bytes_field(15, b"")
        )
        request = bytes_field(1, sandbox) + bytes_field(2, config) + bytes_field(3, spec.config())
        container = _text(self.call("CreateContainer", request))
        if not spec.cgroup_parent:
            self.cgroups.append(f"/k8s.io/{container}")
        self.call("StartContainer", bytes_field(1, container))
        return container

    def remove_pod(self, sandbox: str) -> None:
        self.call("StopPodSandbox", bytes_field(1, sandbox))
        self.call("RemovePodSandbox", bytes_field(1, sandbox))

    def address(self, sandbox: str) -> str:
        """PodSandboxStatusResponse: status 1, of it network 5, of it ip 1."""
        status = self.call("PodSandboxStatus", bytes_field(1, sandbox))
        return _text(_part(_part(status, 1), 5))

    def run_container(self, container: str, cgroup: str, *command: str) -> int:
        """A container by runc alone, with a network namespace of its own; returns its pid."""
        bundle = self.place / container
        write_bundle(bundle, cgroup, command)
        self.cgroups.append(cgroup)
        words = ("runc", "--root", "/run/runc", "run", "--bundle", str(bundle), container)
        self._start(*words, log=bundle / "log")
        return _wait(lambda: self.process_in(cgroup), f"{container} does not start")

    def run_unit(self, unit: str, *command: str) -> int:
        """A process in a systemd unit's cgroup, as with PrivateNetwork=yes; returns its pid."""
        cgroup = f"/system.slice/{unit}"
        self.cgroups.append(cgroup)
        for hierarchy in hierarchies():
            make_cgroup(hierarchy, cgroup)
        enter = [f"echo $$ > {hierarchy}{cgroup}/cgroup.procs" for hierarchy in hierarchies()]
        script = " && ".join([*enter, 'exec unshare --net "$@"'])
        self._start("sh", "-c", script, "sh", *command, log=self.place / f"{unit}.log")
        return _wait(lambda: self.process_in(cgroup, command[0]), f"{unit} does not start")

    def _start(self, *command: str, log: Path) -> None:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["nsenter", "-t", str(self.init), "--pid", "--mount", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.started.append(process)

    def process_in(self, cgroup: str, command: str = "") -> int | None:
        """A process of this cgroup that has a network namespace of its own, by the host's number."""
        ours = os.stat("/proc/thread-self/ns/net").st_ino
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            process = Path("/proc", entry)
            with suppress(OSError):
                lines = (process / "cgroup").read_text().splitlines()
                inside = any(line.endswith(f":{cgroup}") for line in lines)
                if inside and (process / "ns/net").stat().st_ino != ours:
                    words = (process / "cmdline").read_text().split("\0")
                    if words[0] == command or not (command or "runc" in words[0]):
                        return int(entry)
        return None


@contextmanager
def cri_node(place: Path) -> Iterator[CriNode]:
    """A running node for the calling thread and what it starts; everything goes with it."""
    place.mkdir()
    write_image(place / "image.tar", IMAGE)
    started: list[subprocess.Popen[bytes]] = []
    with own_netns(), _own_mounts(), own_cgroups() as cgroups:
        try:
            with _own_processes() as init:
                node = CriNode(place, init, cgroups, started)
                _start_containerd(node)
                yield node
        finally:
            for process in started:
                process.wait(timeout=120)


def _start_containerd(node: CriNode) -> None:
    log = node.place / "containerd.log"
    Path("/run/cni").mkdir()
    Path("/run/cni/10-test.conflist").write_text(json.dumps(CNI_CONFIG))
    config = node.place / "containerd.toml"
    config.write_text(CONTAINERD_CONFIG.format(socket=SOCKET, image=IMAGE, cni=CNI))
    node._start("containerd", "--config", str(config), log=log)

    def serves() -> bool:
        with suppress(grpc_unary.CallError):
            grpc_unary.call(SOCKET, "/runtime.v1.RuntimeService/Version", b"", 1.0)
            return True
        return False

    _wait(serves, f"containerd does not serve CRI, see {log}")
    imported = subprocess.run(
        ["ctr", "-n", "k8s.io", "images", "import", str(node.place / "image.tar")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
    # the CRI plugin hears of it by an event
    _wait(lambda: bool(node.call("ListImages", b"", "ImageService")), "the image does not appear")


@contextmanager
def _own_processes() -> Iterator[int]:
    """A PID namespace; yields its first process, by the host's number."""
    unshare = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "unchanged",
    ]
    script = "while :; do sleep 1000; done"
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *unshare, "--", "sh", "-c", script]
    ) as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        try:
            yield int(_wait(lambda: _runs_sh(children.read_text().strip()), "no PID namespace"))
        finally:
            outer.kill()


def _runs_sh(pid: str) -> str:
    """A pid once it runs its script, that is, once its mounts are made."""
    return pid if pid and Path(f"/proc/{pid}/comm").read_text().strip() == "sh" else ""


@contextmanager
def _own_mounts() -> Iterator[None]:
    """Let the calling thread, and what it starts, have mounts of its own for a while."""
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    place = os.getcwd()
    try:
        assert _libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for directory in PRIVATE_DIRECTORIES:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
        # so that the namespaces that containerd mounts there are seen here too
        subprocess.run(["mount", "--make-shared", "/run"], check=True)
        yield
    finally:
        # setns() wants that no other thread shares our root and working directory
        assert _libc.unshare(_CLONE_FS) == 0, os.strerror(ctypes.get_errno())
        assert _libc.setns(before, _CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        os.close(before)
        os.chdir(place)


def _wait(what: Callable[[], T | None], words: str) -> T:
    end = time.monotonic() + READY_SECONDS
    while not (found := what()):
        assert time.monotonic() < end, words
        time.sleep(0.02)
    return found


def _text(message: bytes) -> str:
    return _part(message, 1).decode()


def _part(message: bytes, wanted: int) -> bytes:
    for number, value in fields(message):
        if number == wanted and isinstance(value, bytes):
            return value
    raise AssertionError(f"no field {wanted} in {message!r}")
